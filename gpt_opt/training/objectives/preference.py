"""Losses over pairs of a chosen and a rejected completion: DPO and its relatives, ORPO."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from gpt_opt.training.data.order import Batch
from gpt_opt.training.data.records import PAIRS, Data
from gpt_opt.training.losses import PairLogps, PairLoss
from gpt_opt.training.metrics import MetricAccumulator
from gpt_opt.training.objectives.base import (
    RecordObjective,
    completion_tokens,
    reference_logps,
    require_kinds,
)


class PreferenceObjective(RecordObjective):
    """The mean of a loss over pairs. Policy and reference each see both completions in one forward.

    A batch of B pairs has R = 2B sequences: the B chosen completions, then the B rejected ones.
    """

    item_name = "pairs"
    loss: PairLoss

    def records(self, data: Data) -> Data:
        """Returns the data, which has to be pairs."""
        require_kinds(data, {PAIRS}, "pairs of a chosen and a rejected completion")
        return data

    def items_settings(self) -> list[Any]:
        """Returns nothing: all losses over pairs have the same items."""
        return []

    def loss_denominator(self, batch: Batch) -> float:
        """Returns the number of pairs."""
        return len(batch["input_ids"]) / 2

    def batch_loss(
        self, model: PreTrainedModel, batch: Batch, metrics: MetricAccumulator, with_kl: bool
    ) -> tuple[Tensor, float]:
        """Returns the summed loss, a scalar in float32 or wider, and the number of pairs.

        `kl` is added where the reference is at hand.
        """
        compares = not getattr(self.loss, "reference_free", False)
        reference, reference_predictions = reference_logps(self.forwards, batch, wanted=with_kl, needed=compares)
        predictions = self.forwards.predictions(model, batch)
        chosen, rejected = predictions.logps().chunk(2)
        halves = reference.chunk(2) if reference is not None else ()
        loss = self.loss(PairLogps(chosen, rejected, *completion_tokens(batch).chunk(2), *halves))
        metrics.add(
            {
                "loss": loss.losses,
                "rewards/chosen": loss.rewards_chosen,
                "rewards/rejected": loss.rewards_rejected,
                "rewards/accuracies": loss.correct.float(),
                "rewards/margins": loss.margins,
                "logps/chosen": chosen,
                "logps/rejected": rejected,
            }
        )
        if with_kl and reference_predictions is not None:
            metrics.add({"kl": predictions.kl(reference_predictions)})
        return loss.losses.sum(), float(len(chosen))
