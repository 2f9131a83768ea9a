"""Judged answers: made of pairs where needed, and mismatched with the prompts of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpt_opt.training.data.records import Example, ExampleData, Pair, PairData
from gpt_opt.training.data.tokenize import Limits, TokenizedExample, cut


@dataclass(frozen=True, slots=True)
class MismatchedExample:
    """A judged answer, and its prompt with the answer of another example.

    Attributes:
        example: The judged answer.
        prompt: Its prompt, cut where the other answer leaves no room for all of it.
        other: The answer of another example.
    """

    example: TokenizedExample
    prompt: list[int]
    other: list[int]


def unpaired(data: PairData) -> ExampleData:
    """Returns two examples for each pair: the chosen answer as desirable, the rejected one as undesirable."""

    def split(pairs: Iterable[Pair]) -> tuple[Example, ...]:
        found: list[Example] = []
        for pair in pairs:
            found += Example(pair.prompt, pair.chosen, True), Example(pair.prompt, pair.rejected, False)
        return tuple(found)

    return ExampleData(split(data.train), split(data.validation), data.fingerprint, data.dropped)


def mismatch(example: TokenizedExample, other: TokenizedExample, limits: Limits) -> MismatchedExample:
    """Returns an example with the answer of another one under its prompt, cut to the limits like any other."""
    prompt, answer = cut((example.prompt, other.completion), limits)
    return MismatchedExample(example, prompt, answer)


def mismatched(examples: Sequence[TokenizedExample], limits: Limits) -> list[MismatchedExample]:
    """Returns each example with the answer of the one before it, the first with that of the last."""
    return [mismatch(example, examples[index - 1], limits) for index, example in enumerate(examples)]
