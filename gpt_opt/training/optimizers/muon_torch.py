"""torch.optim.Muon for the matrices of a model, torch.optim.AdamW for all else: muon-torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer

from gpt_opt.training.optimizers.packages import is_plain_matrix
from gpt_opt.training.optimizers.roles import NamedParameter


class MuonTorch(Optimizer):
    """torch.optim.Muon, which takes matrices alone, and AdamW for embeddings, heads, norms, biases and stacks.

    Args:
        named_parameters: All trainable parameters.
        lr: Learning rate of the matrices.
        weight_decay: Decoupled decay of the matrices, per unit of lr.
        momentum: Decay of the mean of gradients.
        nesterov: Whether the mean looks a step ahead.
        ns_steps: Iterations of the orthogonalization.
        eps: Least norm that a matrix is divided by before them.
        adjust_lr_fn: How lr depends on the shape: `original` or `match_rms_adamw`.
        adamw_lr: Learning rate of the others.
        adamw_betas: Of AdamW.
        adamw_eps: Of AdamW.
        adamw_weight_decay: Decoupled decay of the others, per unit of their lr.

    Raises:
        ValueError: If a setting is out of its range, or matrices of 16 bits have no Nesterov momentum.
    """

    def __init__(
        self,
        named_parameters: Sequence[NamedParameter],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        eps: float = 1e-7,
        adjust_lr_fn: str = "original",
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 0.0,
    ) -> None:
        matrices = [item.parameter for item in named_parameters if is_plain_matrix(item)]
        others = [item.parameter for item in named_parameters if not is_plain_matrix(item)]
        if not nesterov and any(matrix.dtype == torch.bfloat16 for matrix in matrices):
            raise ValueError("nesterov must be true with bfloat16 weights: torch.optim.Muon overwrites its momentum")
        self._parts: list[Optimizer] = []
        if matrices:
            muon = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
            self._parts.append(Muon(matrices, lr, weight_decay, eps=eps, **muon))  # type: ignore[arg-type]
        if others:
            self._parts.append(AdamW(others, adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Gives the parts the groups and states of the whole, which others read and change."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def treatment(self, group: Mapping[str, Any]) -> str:
        """Returns what the parameters of a group go with."""
        return "Muon" if "ns_steps" in group else "AdamW"

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads a state; torch makes new groups of it."""
        super().load_state_dict(dict(state_dict))
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step."""
        for part in self._parts:
            part.step()
