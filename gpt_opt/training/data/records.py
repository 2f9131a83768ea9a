"""Preference data as the rest of the training code sees it: pairs, two splits, and a fingerprint of the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference.

    The texts are joined as they are, `prompt + chosen`: a space between the two belongs to the data.

    Attributes:
        prompt: What both answers continue.
        chosen: The preferred answer.
        rejected: The other answer; never equal to `chosen`.
    """

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PairData:
    """A preference data set.

    Attributes:
        train: Pairs to learn from.
        validation: Pairs only to measure on.
        fingerprint: What `fingerprint_pairs` says of the two splits.
    """

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    fingerprint: str


def fingerprint_pairs(train: Sequence[Pair], validation: Sequence[Pair]) -> str:
    """Name the content of a data set, so that a run can record what it was trained on.

    Args:
        train: Pairs in the order in which they are used.
        validation: Likewise.

    Returns:
        64 hexadecimal digits of a SHA-256. Any change of a text, of an order or of a split gives others.
    """
    digest = hashlib.sha256()
    for split, pairs in (("train", train), ("validation", validation)):
        for pair in pairs:
            # JSON lines are unambiguous: no text can imitate the border of a field or of a record.
            row = [split, pair.prompt, pair.chosen, pair.rejected]
            digest.update(json.dumps(row).encode("ascii") + b"\n")
    return digest.hexdigest()
