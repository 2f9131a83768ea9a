"""Muon as it was first (Jordan 2024): a sum of gradients, orthogonalized; Adam beside the matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpt_opt.training.optimizers.base import FullPrecisionOptimizer, adam_step, subtract, summed_momentum
from gpt_opt.training.optimizers.orthogonalize import orthogonalize_all
from gpt_opt.training.optimizers.roles import NamedParameter
from gpt_opt.training.optimizers.routing import Group, matrix_groups


class MuonLegacy(FullPrecisionOptimizer):
    """p <- (1 - lr wd) p - lr polar(u) for matrices, u = g + momentum * sum with `nesterov`, else the sum.

    Args:
        named_parameters: All trainable parameters.
        lr: Learning rate, of all.
        momentum: Decay of the sum of gradients, in [0, 1).
        nesterov: Whether u looks a step ahead.
        betas: Of Adam beside the matrices.
        eps: Of Adam.
        polar_method: A key of `orthogonalize.METHODS`.
        ns_steps: Iterations of it.
        weight_decay: Decoupled decay of all parameters, per unit of lr.
    """

    def __init__(
        self,
        named_parameters: Sequence[NamedParameter],
        lr: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        polar_method: str = "polar_express_deflated",
        ns_steps: int = 5,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "betas": betas, "eps": eps}
        settings |= {"polar_method": polar_method, "ns_steps": ns_steps, "weight_decay": weight_decay}
        super().__init__(matrix_groups(named_parameters, lr, weight_decay), settings)

    def treatment(self, group: Group) -> str:
        """Returns what the parameters of a group go with, in words."""
        return "orthogonalized" if group["is_matrix"] else "adam"

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step."""
        for group in self.param_groups:
            trained = self.trained(group)
            if group["is_matrix"]:
                ahead = [
                    summed_momentum(self.state[parameter], gradient, group["momentum"], group["nesterov"])
                    for parameter, gradient in trained
                ]
                updates = orthogonalize_all(ahead, group["polar_method"], group["ns_steps"])
            else:
                updates = []
                for parameter, gradient in trained:
                    state = self.state[parameter]
                    state["step"] = state.get("step", 0) + 1
                    updates.append(adam_step(state, gradient, group["betas"], group["eps"], state["step"]))
            for (parameter, _), update in zip(trained, updates, strict=True):
                subtract(parameter, group["lr"] * update, 1 - group["lr"] * group["weight_decay"])
