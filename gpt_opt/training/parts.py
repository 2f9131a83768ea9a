"""Everything that a training is made of, between `build` and the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from gpt_opt.config.checks.batches import batch_size
from gpt_opt.training.data.order import Collate, TrainingOrder
from gpt_opt.training.data.prepare import Items
from gpt_opt.training.models.build import Reference
from gpt_opt.training.objectives import Objective


@dataclass(frozen=True)
class Parts:
    """Everything a training is made of.

    Attributes:
        tokenizer: Of policy and reference.
        policy: The model that is trained, with its adapters.
        reference: What the policy is compared with, or None.
        objective: What an item, a batch and a loss are.
        items: What is trained and measured on.
        steps: Optimizer steps of the whole training.
        collator: What makes batches of items.
        callbacks: The user's own, beside ours.
    """

    tokenizer: PreTrainedTokenizerFast
    policy: PreTrainedModel
    reference: Reference | None
    objective: Objective
    items: Items
    steps: int
    collator: Collate
    callbacks: list[TrainerCallback]

    def order(self, config: Mapping[str, Any]) -> TrainingOrder:
        """Returns the items of the whole training in order."""
        params = config["training"]["training_params"]
        order = self.objective.order(self.items, batch_size(params), self.steps, config["seed"])
        if params["group_by_length"]:
            rows = map(self.collator.rows, self.objective.arrange(self.items.train))
            order.group_by_length([sum(len(prompt) + len(own) for prompt, own in item) for item in rows])
        return order
