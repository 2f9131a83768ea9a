"""What a trainer is given besides model and objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gpt_opt.config.inputs import Inputs
from gpt_opt.training.data.order import Collate, TrainingOrder
from gpt_opt.training.interface import Folder, Hooks
from gpt_opt.training.model_selection import Best


@dataclass(frozen=True)
class Task:
    """What is trained on what, besides model and objective.

    Attributes:
        order: All training items in order.
        validation: Evaluation data, items of the same kind.
        collator: Makes batches of items.
        optimizer: Of the policy's parameters.
        schedule: The factor on the learning rate at each step, applied to that optimizer.
        save_total_limit: Newest checkpoints to keep; None keeps all.
        folder: Where to write.
        hooks: Of whoever runs the training.
        data_fingerprint: SHA-256 of training and validation data; a resume with other data is refused.
        inputs: Files and modules of the run with their fingerprints; a resume with other weights is refused.
        best: Compares the evaluations; None where nothing depends on which is best.
    """

    order: TrainingOrder
    validation: Sequence[Any]
    collator: Collate
    optimizer: Optimizer
    schedule: LambdaLR
    save_total_limit: int | None
    folder: Folder
    hooks: Hooks
    data_fingerprint: str
    inputs: Inputs
    best: Best | None
