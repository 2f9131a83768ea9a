"""Objectives: what an item, a batch, a loss and its metrics are; the rest of training/ never asks which loss it has.

Input: the `loss` of the config, data, batches. Output: items, the summed loss of a batch and what it is divided by. A
new objective is a subclass of `Objective` in a module of its own and a line in `_BY_LOSS`; a user's own is named by
`aligner._target_`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt_opt.training.losses import KTO, LM, SFT
from gpt_opt.training.objectives.base import Objective, RecordObjective
from gpt_opt.training.objectives.lm import LMObjective
from gpt_opt.training.objectives.preference import PreferenceObjective
from gpt_opt.training.objectives.sft import SFTObjective
from gpt_opt.training.objectives.unpaired import UnpairedObjective

__all__ = [
    "LMObjective",
    "Objective",
    "PreferenceObjective",
    "RecordObjective",
    "SFTObjective",
    "UnpairedObjective",
    "objective_of",
]

_BY_LOSS: dict[type, Callable[..., Objective]] = {SFT: SFTObjective, KTO: UnpairedObjective, LM: LMObjective}


def objective_of(loss: Any) -> Callable[..., Objective]:
    """Returns the objective of a loss; any that is not known otherwise is a `gpt_opt.training.losses.PairLoss`."""
    return next((kind for known, kind in _BY_LOSS.items() if isinstance(loss, known)), PreferenceObjective)
