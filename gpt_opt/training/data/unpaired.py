"""Single answers: made of pairs where needed, and for KTO mismatched with the prompts of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpt_opt.training.data.collect import Data
from gpt_opt.training.data.records import Example, ExampleData, Pair
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


def unpaired(data: Data) -> ExampleData:
    """Returns two examples for each pair: the chosen answer as desirable, the rejected one as undesirable.

    Single answers stay.
    """

    def split(records: Iterable[Pair | Example]) -> tuple[Example, ...]:
        found: list[Example] = []
        for record in records:
            if isinstance(record, Example):
                found.append(record)
                continue
            found += (
                Example(record.prompt, record.chosen, True, record.place),
                Example(record.prompt, record.rejected, False, record.place),
            )
        return tuple(found)

    return ExampleData(split(data.train), split(data.validation), data.fingerprint, data.dropped)


def targets(data: Data) -> ExampleData:
    """Returns what fine-tuning learns: demonstrations, wanted answers, and of pairs one answer to each prompt.

    Of the chosen answers to a prompt it is the last one that is nowhere rejected, or else the last one. What is left
    out is counted.
    """
    dropped = Counter(data.dropped)

    def split(records: Sequence[Pair | Example]) -> tuple[Example, ...]:
        pairs = [record for record in records if isinstance(record, Pair)]
        single = [record for record in records if isinstance(record, Example)]
        chosen, wanted = _targets(pairs), [record for record in single if record.desirable is not False]
        dropped[OTHER_ANSWER] += len(pairs) - len(chosen)
        dropped[UNWANTED] += len(single) - len(wanted)
        return (*chosen, *wanted)

    train, validation = split(data.train), split(data.validation)
    return ExampleData(train, validation, data.fingerprint, {why: count for why, count in dropped.items() if count})


OTHER_ANSWER = "pair of a prompt that has its one target"
UNWANTED = "answer that is judged as unwanted"


def _targets(pairs: Sequence[Pair]) -> tuple[Example, ...]:
    rejected = {(pair.prompt, pair.rejected) for pair in pairs}
    found: dict[str, Example] = {}
    best: set[str] = set()
    for pair in pairs:
        beaten = (pair.prompt, pair.chosen) in rejected
        if not beaten:
            best.add(pair.prompt)
        if not (beaten and pair.prompt in best):
            found[pair.prompt] = Example(pair.prompt, pair.chosen, True, pair.place)
    return tuple(found.values())


def mismatch(example: TokenizedExample, other: TokenizedExample, limits: Limits) -> MismatchedExample:
    """Returns an example with the answer of another one under its prompt, cut to the limits like any other."""
    prompt, answer = cut((example.prompt, other.completion), limits)
    return MismatchedExample(example, prompt, answer)


def mismatched(examples: Sequence[TokenizedExample], limits: Limits) -> list[MismatchedExample]:
    """Returns each example with the answer of another one; every answer is that of another one once.

    Examples of one prompt are taken together, in the order in which prompts first come, and answers move on by as many
    places as the commonest prompt has examples: by one, as KTO has it, where no prompt comes twice. So nobody gets an
    answer to the own prompt, unless more than half of the examples have one prompt.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for place, example in enumerate(examples):
        # What is left of a prompt depends on its answer; what it is cut to does not.
        places.setdefault(tuple(limits.cut_prompt(example.prompt)), []).append(place)
    order = [place for same in places.values() for place in same]
    step = min(max(map(len, places.values()), default=1), max(len(order) - 1, 1))
    other = {place: order[index - step] for index, place in enumerate(order)}
    return [mismatch(example, examples[other[place]], limits) for place, example in enumerate(examples)]
