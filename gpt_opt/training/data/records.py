"""Records as the rest of the training code sees them: texts, their tokens, two splits, a fingerprint of the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

PAIRS, UNPAIRED, DEMONSTRATIONS = "pairs", "unpaired preferences", "demonstrations"
"""Kinds of records."""

Ids = tuple[list[int], ...]
"""Token ids of a prompt and of each completion of it."""


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """Token ids of a pair; both completions end in end-of-sequence unless they were truncated."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def ids(self) -> Ids:
        """Ids of the prompt and of each completion."""
        return self.prompt, self.chosen, self.rejected

    @property
    def wanted(self) -> list[int] | None:
        """Ids of the completion that is wanted; None where there is none."""
        return self.chosen


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids of one completion, which ends in end-of-sequence unless it was truncated.

    Attributes:
        prompt: Ids of the prompt.
        completion: Ids of the completion. `~id` stands for a token `id` that is only context, as between two responses
            of a dialogue; see `token_ids`.
        desirable: Whether completions like this one are wanted.
    """

    prompt: list[int]
    completion: list[int]
    desirable: bool

    @property
    def ids(self) -> Ids:
        """Ids of the prompt and of each completion."""
        return self.prompt, self.completion

    @property
    def wanted(self) -> list[int] | None:
        """Ids of the completion that is wanted, those of context included; None where there is none."""
        return token_ids(self.completion) if self.desirable else None


def token_ids(completion: Sequence[int]) -> list[int]:
    """Returns the token ids of a completion, those of context included."""
    return [token if token >= 0 else ~token for token in completion]


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference.

    The texts are joined as they are, `prompt + chosen`: a space between the two belongs to the data.

    Attributes:
        prompt: What both completions continue.
        chosen: The preferred completion.
        rejected: The other completion; never equal to `chosen`.
        source: Where people can correct its row, file and line, or "" where that is not known; None where nobody can,
            as in published data: then a row that cannot be used is left out and counted.
    """

    prompt: str
    chosen: str
    rejected: str
    source: str | None = field(default="", compare=False)
    kind: ClassVar[str] = PAIRS
    is_demonstration: ClassVar[bool] = False
    is_text: ClassVar[bool] = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt and each completion of it."""
        return self.prompt, self.chosen, self.rejected

    def with_ids(self, ids: Ids) -> TokenizedPair:
        """Returns the pair with token ids in place of its texts."""
        return TokenizedPair(*ids)


@dataclass(frozen=True, slots=True)
class Example:
    """One completion: an unpaired preference (it has a label), or a demonstration, which fine-tuning learns.

    The texts are joined as they are, `prompt + completion`: a space between the two belongs to the data.

    Attributes:
        prompt: What the completion continues; "" where the whole text is learned.
        completion: The completion; of a dialogue with several responses its `Turns`.
        desirable: The label, whether completions like this one are wanted; None for a demonstration.
        source: As that of a `Pair`.
    """

    prompt: str
    completion: str
    desirable: bool | None
    source: str | None = field(default="", compare=False)

    @property
    def kind(self) -> str:
        """`UNPAIRED`, or `DEMONSTRATIONS` without a label."""
        return DEMONSTRATIONS if self.is_demonstration else UNPAIRED

    @property
    def is_demonstration(self) -> bool:
        """Whether nobody gave the completion a label."""
        return self.desirable is None

    @property
    def is_text(self) -> bool:
        """Whether all of it is learned, over several rows if long: it is a demonstration without a prompt."""
        return self.is_demonstration and not self.prompt

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt and each completion of it."""
        return self.prompt, self.completion

    def with_ids(self, ids: Ids) -> TokenizedExample:
        """Returns the example with token ids in place of its texts; a demonstration is wanted."""
        return TokenizedExample(ids[0], ids[1], self.desirable is not False)


class UnmaskedExample(Example):
    """A demonstration whose prompt, and what comes between two responses, is learned too: a text like any other."""

    __slots__ = ()

    @property
    def is_text(self) -> bool:
        """True."""
        return True


Record = Pair | Example
Tokenized = TokenizedPair | TokenizedExample
R = TypeVar("R")


@dataclass(frozen=True)
class RecordData(Generic[R]):
    """A data set of records: pairs, single completions, or both.

    Attributes:
        train: Records to learn from.
        validation: Records only to measure on.
        fingerprint: What names the content of the two splits, 64 hexadecimal digits; see `fingerprint_records`.
        dropped: How many rows of the source were not used, by the reason.
    """

    train: tuple[R, ...]
    validation: tuple[R, ...]
    fingerprint: str
    dropped: Mapping[str, int] = field(default_factory=dict)


PairData = RecordData[Pair]
ExampleData = RecordData[Example]
Data = RecordData[Any]


def fingerprint_records(train: Sequence[Record], validation: Sequence[Record]) -> str:
    """Returns what names the content of a data set, so that a run can record what it was trained on.

    Args:
        train: Records in the order in which they are used.
        validation: Likewise.

    Returns:
        64 hexadecimal digits of a SHA-256. Any change of a text, of an order or of a split gives others.
    """
    digest = hashlib.sha256()
    for split, records in {"train": train, "validation": validation}.items():
        for record in records:
            # JSON lines are unambiguous: no text can imitate the border of a field or of a record.
            row = [split, *(getattr(record, name) for name in record.__slots__ if name != "source")]
            digest.update(json.dumps(row).encode("ascii") + b"\n")
    return digest.hexdigest()


fingerprint_pairs = fingerprint_records
