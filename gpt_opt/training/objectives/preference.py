"""Losses over pairs of a chosen and a rejected completion: DPO and its relatives, ORPO."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from gpt_opt.training.data.order import Batch
from gpt_opt.training.data.records import PAIRS, Data
from gpt_opt.training.losses import PairLogps, PairLoss, sequence_kl, token_logps
from gpt_opt.training.metrics import MetricAccumulator
from gpt_opt.training.objectives.base import RecordObjective, completion_tokens, require_kinds


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

    def loss_denominator(self, batch: Batch) -> float:
        """Returns the number of pairs."""
        return len(batch["input_ids"]) / 2

    def batch_loss(
        self, model: PreTrainedModel, batch: Batch, metrics: MetricAccumulator, with_kl: bool
    ) -> tuple[Tensor, float]:
        """Returns the summed loss and the number of pairs."""
        labels = batch["labels"]
        compares = with_kl or not getattr(self.loss, "reference_free", False)
        reference_logits = self.forwards.reference_logits(batch) if compares else None
        reference_logps = token_logps(reference_logits, labels).sum(-1) if reference_logits is not None else None
        if not with_kl:
            reference_logits = None
        logits = self.forwards.logits(model, batch)
        chosen, rejected = token_logps(logits, labels).sum(-1).chunk(2)
        reference = reference_logps.chunk(2) if reference_logps is not None else ()
        loss = self.loss(PairLogps(chosen, rejected, *completion_tokens(batch).chunk(2), *reference))
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
        if reference_logits is not None:
            metrics.add({"kl": sequence_kl(logits, reference_logits, labels)})
        return loss.losses.sum(), float(len(chosen))
