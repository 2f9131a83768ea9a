"""KTO over unpaired preferences: completions with labels, each also seen under the prompt of another one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gpt_opt.training.data.order import Batch, Collate, Row, pad
from gpt_opt.training.data.packing import pack
from gpt_opt.training.data.records import PAIRS, UNPAIRED, Data, Example, Pair, Record, TokenizedExample
from gpt_opt.training.data.tokenize import SequenceLimits, truncate
from gpt_opt.training.losses import KTO, reference_point
from gpt_opt.training.metrics import MetricAccumulator
from gpt_opt.training.objectives.base import RecordObjective, reference_logps, require_kinds

log = logging.getLogger(__name__)


class UnpairedObjective(RecordObjective):
    """KTO, the mean over completions.

    The reference point is taken over the mismatched completions of the whole optimizer step on all processes, before
    its first loss, and in an evaluation over those of all the validation data. So neither micro-batches nor the number
    of processes change it.

    A batch of B completions has R = 2B sequences: the B completions, then the B mismatched ones.
    """

    item_name = "examples"
    loss: KTO
    _point: Tensor  # `prepare` computes it before any loss

    def records(self, data: Data) -> Data:
        """Returns completions with labels, two for each pair."""
        require_kinds(data, {PAIRS, UNPAIRED}, "unpaired preferences or pairs")
        examples = unpaired(data)
        desirable = sum(bool(example.desirable) for example in examples.train)
        undesirable = len(examples.train) - desirable
        weighted = self.loss.desirable_weight * desirable, self.loss.undesirable_weight * undesirable
        counts = desirable, undesirable, *weighted
        log.info("%d desirable and %d undesirable completions, %g to %g with their weights", *counts)
        return examples

    def items_settings(self) -> list[Any]:
        """Returns the weights, which are only told of in the log."""
        return [self.loss.desirable_weight, self.loss.undesirable_weight]

    def collator(self) -> Collate:
        """Returns a collator of `MismatchedExample`."""
        return MismatchedCollator()

    def arrange(self, items: Sequence[TokenizedExample]) -> list[MismatchedExample]:
        """Returns the examples, mismatched among each other."""
        return mismatched(items, self.limits)

    def loss_denominator(self, batch: Batch) -> float:
        """Returns the number of completions."""
        return len(batch["input_ids"]) / 2

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Computes the reference point of the step, of the policy as it is: without the dropout of adapters."""
        model, forwards = self.forwards.policy, self.forwards
        total, training = torch.zeros(2, device=forwards.device), model.training
        model.eval()
        for batch in batches:
            half = _half(forwards.on_device(batch), 1)
            policy = forwards.predictions(model, half).logps()
            reference, _ = reference_logps(forwards, half, wanted=False)
            assert reference is not None
            total += torch.stack([(policy - reference).sum(), torch.tensor(float(len(policy)), device=total.device)])
        model.train(training)
        ratio, count = forwards.sum(total)
        self._point = reference_point(ratio / count)

    def batch_loss(
        self, model: PreTrainedModel, batch: Batch, metrics: MetricAccumulator, with_kl: bool
    ) -> tuple[Tensor, float]:
        """Returns the summed loss, a scalar in float32 or wider, and the number of completions.

        `kl` is added where the reference is at hand.
        """
        half, desirable = _half(batch, 0), batch["desirable"]
        reference, reference_predictions = reference_logps(self.forwards, half, wanted=with_kl)
        assert reference is not None
        predictions = self.forwards.predictions(model, half)
        logps = predictions.logps()
        loss = self.loss(logps, reference, desirable, self._point)
        metrics.add({"loss": loss.losses, "rewards/accuracies": loss.correct.float(), "kto/kl": self._point.view(1)})
        for name, rows in (("chosen", desirable), ("rejected", ~desirable)):
            metrics.add({f"rewards/{name}": loss.rewards[rows], f"logps/{name}": logps[rows]})
        if with_kl and reference_predictions is not None:
            metrics.add({"kl": predictions.kl(reference_predictions)})
        return loss.losses.sum(), float(len(logps))

    def policy_logps(self, batch: Batch) -> Tensor:
        """Returns those of the completions, then those of the mismatched ones, (R,) in float32 or wider."""
        return torch.cat([super(UnpairedObjective, self).policy_logps(_half(batch, side)) for side in (0, 1)])

    def finish(self, means: dict[str, float]) -> dict[str, float]:
        """Adds, where there were completions of both kinds, the difference of their mean rewards."""
        if "rewards/chosen" in means and "rewards/rejected" in means:
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means


def _half(batch: Batch, side: int) -> Batch:
    """Returns the first (0) or the second (1) rows of the items of a batch; `packed` has one for each."""
    names = ("input_ids", "labels", "reference_logps")
    halves: Batch = {name: batch[name].chunk(2)[side] for name in names if name in batch}
    packed = {"packed": batch["packed"][side]} if "packed" in batch else {}
    return {**halves, "logits_to_keep": batch["logits_to_keep"], **packed}


def unpaired(data: Data) -> Data:
    """Returns two examples for each pair, the chosen completion as desirable, the rejected one as undesirable.

    Single completions stay.
    """

    def examples(records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if isinstance(record, Pair):
                yield Example(record.prompt, record.chosen, True, record.source)
                yield Example(record.prompt, record.rejected, False, record.source)
            else:
                yield record

    return replace(data, train=tuple(examples(data.train)), validation=tuple(examples(data.validation)))


@dataclass(frozen=True, slots=True)
class MismatchedExample:
    """An example, and its prompt with the completion of another one.

    Attributes:
        example: The example.
        prompt: Its prompt, truncated where the other completion leaves no room for all of it.
        other: The completion of another example.
    """

    example: TokenizedExample
    prompt: list[int]
    other: list[int]


def mismatch(example: TokenizedExample, other: TokenizedExample, limits: SequenceLimits) -> MismatchedExample:
    """Returns an example with the completion of another one under its prompt, truncated like any other."""
    prompt, completion = truncate((example.prompt, other.completion), limits)
    return MismatchedExample(example, prompt, completion)


def mismatched(examples: Sequence[TokenizedExample], limits: SequenceLimits) -> list[MismatchedExample]:
    """Returns each example with the completion of another one; every completion is that of another one once.

    Examples of one prompt are taken together, in the order in which prompts first come, and completions move on by as
    many examples as the commonest prompt has: by one, as KTO has it, where no prompt comes twice. So nobody gets a
    completion of the own prompt, unless more than half of the examples have one prompt.
    """
    indices: dict[tuple[int, ...], list[int]] = {}
    for index, example in enumerate(examples):
        # What is left of a prompt depends on its completion; what it is truncated to does not.
        indices.setdefault(tuple(limits.truncate_prompt(example.prompt)), []).append(index)
    order = [index for same in indices.values() for index in same]
    step = min(max(map(len, indices.values()), default=1), max(len(order) - 1, 1))
    other = {index: order[rank - step] for rank, index in enumerate(order)}
    return [mismatch(example, examples[other[index]], limits) for index, example in enumerate(examples)]


@dataclass(frozen=True)
class MismatchedCollator:
    """Batches of B rows with the completions, then B with those of others under the same prompts."""

    def rows(self, item: MismatchedExample) -> list[Row]:
        """Returns the prompt with its own completion and with that of another."""
        return [(item.example.prompt, item.example.completion), (item.prompt, item.other)]

    def __call__(self, batch: Sequence[MismatchedExample]) -> Batch:
        """Returns what `pad` returns, R = 2B, `desirable`, (B,) bool, and `packed`, of either half by itself."""
        desirable, items = torch.tensor([item.example.desirable for item in batch]), [self.rows(item) for item in batch]
        packed = [pack([[row] for row in side]) for side in zip(*items, strict=True)]
        return {**pad(items), "desirable": desirable, "packed": packed}
