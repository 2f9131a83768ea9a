"""Sign descent with momentum, as steepest descent in the max norm: sign-gd, sign-gd-nonlmo."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from gpt_opt.training.optimizers.base import FullPrecisionOptimizer, subtract, summed_momentum


class SignGD(FullPrecisionOptimizer):
    """p <- (1 - lr wd) p - lr c sign(u), with u the momentum (Bernstein et al. 2018, arXiv 1802.04434, Algorithm 1).

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        momentum: Decay of the sum of gradients, in [0, 1).
        nesterov: Whether u looks a step ahead, g + momentum * sum.
        lmo: Whether c is 1, the linear minimization oracle over the ball; otherwise c is the dual norm, the sum of |u|
            over all parameters, which gives steepest descent.
        weight_decay: Decoupled decay, per unit of lr.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.95,
        nesterov: bool = False,
        lmo: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "lmo": lmo, "weight_decay": weight_decay}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step."""
        directions = [
            (group, parameter, summed_momentum(self.state[parameter], gradient, group["momentum"], group["nesterov"]))
            for group in self.param_groups
            for parameter, gradient in self.trained(group)
        ]
        if not directions:
            return
        dual = torch.stack([direction.abs().sum() for _, _, direction in directions]).sum()
        for group, parameter, direction in directions:
            scale = group["lr"] if group["lmo"] else group["lr"] * dual
            subtract(parameter, direction.sign() * scale, 1 - group["lr"] * group["weight_decay"])
