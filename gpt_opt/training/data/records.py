"""Preference data as the rest of the training code sees it: records, two splits, and a fingerprint of the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference.

    The texts are joined as they are, `prompt + chosen`: a space between the two belongs to the data.

    Attributes:
        prompt: What both answers continue.
        chosen: The preferred answer.
        rejected: The other answer; never equal to `chosen`.
        place: Where people can correct its row, file and line, or "" where that is not known; None where nobody can, as
            in published data: then a row that cannot be used is left out and counted.
    """

    prompt: str
    chosen: str
    rejected: str
    place: str | None = field(default="", compare=False)


@dataclass(frozen=True)
class PairData:
    """A preference data set.

    Attributes:
        train: Pairs to learn from.
        validation: Pairs only to measure on.
        fingerprint: What `fingerprint_pairs` says of the two splits.
        dropped: How many rows of the source were not used, by the reason.
    """

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    fingerprint: str
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """One answer, for losses that need no pairs: a judged one, or a demonstration, which fine-tuning learns.

    The texts are joined as they are, `prompt + completion`: a space between the two belongs to the data.

    Attributes:
        prompt: What the answer continues; "" where the whole text is learned.
        completion: The answer; for a dialogue with several of them its `Turns`.
        desirable: Whether answers like this one are wanted; None for a demonstration, which nobody judged.
        place: As that of a `Pair`.
    """

    prompt: str
    completion: str
    desirable: bool | None
    place: str | None = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ExampleData:
    """A data set of judged answers or of demonstrations.

    Attributes:
        train: Examples to learn from.
        validation: Examples only to measure on.
        fingerprint: What names the content of the two splits; 64 hexadecimal digits.
        dropped: How many rows of the source were not used, by the reason.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    fingerprint: str
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MixedData:
    """A data set of pairs and of single answers, which some losses make one kind of.

    Attributes:
        train: Records to learn from.
        validation: Records only to measure on.
        fingerprint: As that of `ExampleData`.
        dropped: How many rows of the source were not used, by the reason.
    """

    train: tuple[Pair | Example, ...]
    validation: tuple[Pair | Example, ...]
    fingerprint: str
    dropped: Mapping[str, int] = field(default_factory=dict)


def fingerprint_pairs(train: Sequence[Pair], validation: Sequence[Pair]) -> str:
    """Name the content of a data set, so that a run can record what it was trained on.

    Args:
        train: Pairs in the order in which they are used.
        validation: Likewise.

    Returns:
        64 hexadecimal digits of a SHA-256. Any change of a text, of an order or of a split gives others.
    """
    return _digest((("train", train), ("validation", validation)))


def fingerprint_records(train: Sequence[Pair | Example], validation: Sequence[Pair | Example]) -> str:
    """Name the content of any data set, as `fingerprint_pairs` does for pairs."""
    return _digest((("train", train), ("validation", validation)))


def _digest(splits: Iterable[tuple[str, Sequence[Pair | Example]]]) -> str:
    digest = hashlib.sha256()
    for split, records in splits:
        for record in records:
            # JSON lines are unambiguous: no text can imitate the border of a field or of a record.
            row = [split, *(getattr(record, name) for name in record.__slots__ if name != "place")]
            digest.update(json.dumps(row).encode("ascii") + b"\n")
    return digest.hexdigest()
