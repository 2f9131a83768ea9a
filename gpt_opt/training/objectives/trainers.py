"""What a trainer does with a batch: fine-tuning, losses over pairs, losses over judged answers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gpt_opt.training.losses import IGNORED, KTO, SFT, PairLogps, PairLoss, reference_point, sequence_kl, token_logps
from gpt_opt.training.metrics import Means, Reduce
from gpt_opt.training.trainer import BaseTrainer, Batch


def _answer_tokens(batch: Batch) -> Tensor:
    """Returns the number of answer tokens of each row."""
    return cast("Tensor", (batch["labels"] != IGNORED).sum(-1))


class SFTTrainer(BaseTrainer):
    """Cross-entropy on the chosen answers; a unit is an answer token, or an answer."""

    loss: SFT

    def units(self, batch: Batch) -> float:
        """Returns what the loss divides by: answer tokens or answers."""
        return self.loss.units(_answer_tokens(batch))

    def batch_loss(self, model: PreTrainedModel, batch: Batch, means: Means, with_kl: bool) -> tuple[Tensor, float]:
        """Returns the summed negative log-likelihood and the number of units."""
        logps = token_logps(self._logits(model, batch), batch["labels"]).sum(-1)
        total, count = self.loss(logps, _answer_tokens(batch)), self.units(batch)
        means.add_sum("loss", total, count)
        means.add({"logps/chosen": logps})
        return total, count


class ReferenceTrainer(BaseTrainer):
    """What the losses share that look at two answers for each item, and mostly at a reference."""

    def units(self, batch: Batch) -> float:
        """Returns the number of items."""
        return len(batch["input_ids"]) / 2

    def _reference_logits(self, batch: Batch) -> Tensor | None:
        if self.reference is None:
            return None
        # Forwards of the policy, and of all that FSDP divides, have their precision with them; so has every output.
        precision = nullcontext() if self.is_fsdp_enabled else self.accelerator.autocast()
        with self.reference.of(self._unwrapped()) as model, precision:
            return self._logits(model, batch).float()

    def _unwrapped(self) -> PreTrainedModel:
        return cast("PreTrainedModel", self.accelerator.unwrap_model(self.model))


class PreferenceTrainer(ReferenceTrainer):
    """A loss over pairs; a unit is a pair. Policy and reference each see both answers in one forward."""

    loss: PairLoss

    def batch_loss(self, model: PreTrainedModel, batch: Batch, means: Means, with_kl: bool) -> tuple[Tensor, float]:
        """Returns the summed loss and the number of pairs."""
        labels = batch["labels"]
        compares = with_kl or not getattr(self.loss, "reference_free", False)
        reference_logits = self._reference_logits(batch) if compares else None
        reference_logps = token_logps(reference_logits, labels).sum(-1) if reference_logits is not None else None
        if not with_kl:
            reference_logits = None
        logits = self._logits(model, batch)
        chosen, rejected = token_logps(logits, labels).sum(-1).chunk(2)
        reference = reference_logps.chunk(2) if reference_logps is not None else ()
        found = self.loss(PairLogps(chosen, rejected, *_answer_tokens(batch).chunk(2), *reference))
        means.add(
            {
                "loss": found.losses,
                "rewards/chosen": found.rewards_chosen,
                "rewards/rejected": found.rewards_rejected,
                "rewards/accuracies": found.correct.float(),
                "rewards/margins": found.margins,
                "logps/chosen": chosen,
                "logps/rejected": rejected,
            }
        )
        if reference_logits is not None:
            means.add({"kl": sequence_kl(logits, reference_logits, labels)})
        return found.losses.sum(), float(len(chosen))


class KTOTrainer(ReferenceTrainer):
    """KTO; a unit is a judged answer.

    The reference point is taken over the mismatched answers of the whole optimizer step on all processes, before its
    first loss, and in an evaluation over those of all the validation data. So neither micro-batches nor the number of
    processes change it.
    """

    loss: KTO
    _point: Tensor  # `prepare` finds it before any loss

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Finds the reference point of the step, of the policy as it is: without the dropout of adapters."""
        total, model = torch.zeros(2, device=self.args.device), self._unwrapped()
        training = model.training
        model.eval()
        for batch in batches:
            half = _half(cast("Batch", self._prepare_inputs(batch)), 1)
            policy = token_logps(self._logits(model, half), half["labels"]).sum(-1)
            reference = token_logps(self._known_logits(half), half["labels"]).sum(-1)
            total += torch.stack([(policy - reference).sum(), torch.tensor(float(len(policy)), device=total.device)])
        model.train(training)
        ratio, count = self._sum(total)
        self._point = reference_point(ratio / count)

    def batch_loss(self, model: PreTrainedModel, batch: Batch, means: Means, with_kl: bool) -> tuple[Tensor, float]:
        """Returns the summed loss and the number of examples."""
        half, desirable = _half(batch, 0), batch["desirable"]
        reference_logits = self._known_logits(half)
        reference_logps = token_logps(reference_logits, half["labels"]).sum(-1)
        logits = self._logits(model, half)
        logps = token_logps(logits, half["labels"]).sum(-1)
        found = self.loss(logps, reference_logps, desirable, self._point)
        means.add({"loss": found.losses, "rewards/accuracies": found.correct.float(), "kto/kl": self._point.view(1)})
        for name, rows in (("chosen", desirable), ("rejected", ~desirable)):
            means.add({f"rewards/{name}": found.rewards[rows], f"logps/{name}": logps[rows]})
        if with_kl:
            means.add({"kl": sequence_kl(logits, reference_logits, half["labels"])})
        return found.losses.sum(), float(len(logps))

    def take(self, means: Means, reduce: Reduce) -> dict[str, float]:
        """Returns the means and, where there were answers of both kinds, the difference of their mean rewards."""
        values = means.take(reduce)
        if "rewards/chosen" in values and "rewards/rejected" in values:
            values["rewards/margins"] = values["rewards/chosen"] - values["rewards/rejected"]
        return values

    def _known_logits(self, batch: Batch) -> Tensor:
        logits = self._reference_logits(batch)
        assert logits is not None
        return logits


def _half(batch: Batch, side: int) -> Batch:
    """Returns the first (0) or the second (1) rows of the items of a batch."""
    rows = {name: batch[name].chunk(2)[side] for name in ("input_ids", "labels")}
    return {**rows, "logits_to_keep": batch["logits_to_keep"]}
