"""Optimizers of other packages that take more than a list of parameters; the others are named by their own classes.

The packages are imported by the functions: only a training that has chosen such an optimizer needs its package.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from gpt_opt.training.optimizers.roles import NamedParameter, Role
from gpt_opt.training.optimizers.steps import around_step


def is_plain_matrix(item: NamedParameter) -> bool:
    """Returns whether a parameter is one matrix; these packages flatten a stack of them, as of experts, to another."""
    return item.role is Role.MATRIX and item.parameter.ndim == 2


def _muon_groups(named_parameters: Sequence[NamedParameter]) -> list[dict[str, Any]]:
    groups = [
        {
            "params": [item.parameter for item in named_parameters if is_plain_matrix(item) == use_muon],
            "use_muon": use_muon,
        }
        for use_muon in (True, False)
    ]
    return [group for group in groups if group["params"]]


def normuon(named_parameters: Sequence[NamedParameter], **settings: Any) -> Optimizer:
    """Returns pytorch_optimizer.NorMuon: matrices by Muon with normalized rows, all others by its AdamW."""
    from pytorch_optimizer import NorMuon

    return NorMuon(_muon_groups(named_parameters), **settings)


def adamuon(named_parameters: Sequence[NamedParameter], **settings: Any) -> Optimizer:
    """Returns pytorch_optimizer.AdaMuon: matrices by Muon with a second moment, all others by its AdamW."""
    from pytorch_optimizer import AdaMuon

    return AdaMuon(_muon_groups(named_parameters), **settings)


def kron(params: Any, **settings: Any) -> Optimizer:
    """Returns pytorch_optimizer.Kron, whose random probes are a function of the seed and the step.

    The class draws them from the global random states. Those differ between processes, whose replicas would part, and
    a draw would change which dropout the training has.
    """
    from pytorch_optimizer import Kron

    optimizer = Kron(params, **settings)
    seed, drawn = torch.initial_seed(), ExitStack()

    def before() -> None:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        drawn.enter_context(torch.random.fork_rng(devices))
        drawn.callback(np.random.set_state, np.random.get_state())
        step = int(optimizer.param_groups[0].get("step", 0))
        torch.manual_seed(seed + step)
        np.random.seed((seed + step) % 2**32)

    around_step(optimizer, before, drawn.close)
    return optimizer
