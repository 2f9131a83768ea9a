"""Supervised fine-tuning: the negative log-likelihood of completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from gpt_opt.training.data.chat import Chat, Turns
from gpt_opt.training.data.order import Batch
from gpt_opt.training.data.records import Data, Example, Pair, Record, UnmaskedExample
from gpt_opt.training.losses import SFT
from gpt_opt.training.metrics import MetricAccumulator
from gpt_opt.training.objectives.base import RecordObjective, completion_tokens

OTHER_COMPLETION = "pair of a prompt that has its SFT example"
UNWANTED = "completion with the label unwanted"


class SFTObjective(RecordObjective):
    """Cross-entropy on demonstrations and chosen completions, divided by their tokens or by their number."""

    item_name = "examples"
    keeps_dropout = True
    loss: SFT

    def records(self, data: Data) -> Data:
        """Returns `sft_examples`, unmasked where the loss says so."""
        examples = sft_examples(data)
        if not self.loss.train_on_inputs:
            return examples
        return replace(examples, train=_unmasked(examples.train), validation=_unmasked(examples.validation))

    def items_settings(self) -> list[Any]:
        """Returns whether prompts are learned."""
        return [self.loss.train_on_inputs]

    def loss_denominator(self, batch: Batch) -> float:
        """Returns the completion tokens or the completions, as the loss says."""
        return self.loss.denominator(completion_tokens(batch))

    def batch_loss(
        self, model: PreTrainedModel, batch: Batch, metrics: MetricAccumulator, with_kl: bool
    ) -> tuple[Tensor, float]:
        """Returns the summed negative log-likelihood, a scalar in float32 or wider, and what it is divided by."""
        logps = self.forwards.predictions(model, batch).logps()
        total, count = self.loss(logps, completion_tokens(batch)), self.loss_denominator(batch)
        metrics.add_sum("loss", total, count)
        metrics.add({"logps/chosen": logps})
        return total, count


def _unmasked(examples: Sequence[Example]) -> tuple[UnmaskedExample, ...]:
    return tuple(UnmaskedExample(example.prompt, _as_turns(example), None, example.source) for example in examples)


def _as_turns(example: Example) -> str:
    """Returns the completion; the response to a dialogue as `Turns`, so that the chat template renders both as one."""
    if not isinstance(example.prompt, Chat) or isinstance(example.completion, Turns):
        return example.completion
    return Turns([("assistant", example.completion.removeprefix(" "))])


def sft_examples(data: Data) -> Data:
    """Returns what fine-tuning learns: demonstrations, wanted completions, and of pairs one completion a prompt.

    Of the chosen completions of a prompt it is the last one that is nowhere rejected, or else the last one. What is
    left out is counted.
    """
    dropped = Counter(data.dropped)

    def examples(records: Sequence[Record]) -> tuple[Example, ...]:
        pairs = [record for record in records if isinstance(record, Pair)]
        single = [record for record in records if isinstance(record, Example)]
        chosen, wanted = _one_a_prompt(pairs), [record for record in single if record.desirable is not False]
        dropped[OTHER_COMPLETION] += len(pairs) - len(chosen)
        dropped[UNWANTED] += len(single) - len(wanted)
        return (*chosen, *wanted)

    train, validation = examples(data.train), examples(data.validation)
    return Data(train, validation, data.fingerprint, dict(+dropped))


def _one_a_prompt(pairs: Sequence[Pair]) -> tuple[Example, ...]:
    rejected = {(pair.prompt, pair.rejected) for pair in pairs}
    examples: dict[str, Example] = {}
    best: set[str] = set()
    for pair in pairs:
        beaten = (pair.prompt, pair.chosen) in rejected
        if not beaten:
            best.add(pair.prompt)
        if not (beaten and pair.prompt in best):
            examples[pair.prompt] = Example(pair.prompt, pair.chosen, True, pair.source)
    return tuple(examples.values())
