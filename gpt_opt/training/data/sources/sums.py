"""Sums that are worked out step by step: chains of thought of any length, made on the spot.

What a sum adds is decided by a hash of its number alone, so that more rows change none of the others.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

from gpt_opt.training.data.chat import Chat, Turns
from gpt_opt.training.data.collect import assemble, hash_fraction, split_records
from gpt_opt.training.data.records import Data, Example

VALIDATION_FRACTION = 0.1
LARGEST_TERM = 99


def build_sums(rows: int, max_terms: int) -> Data:
    """Builds dialogues of one question, a sum, whose response holds every intermediate result before the answer.

    The more terms, the longer the chain of thought: with bytes about 13 tokens each.

    Args:
        rows: Sums to make; a tenth is for validation, and none comes twice.
        max_terms: Most terms of a sum, at least 2.

    Raises:
        DataError: If there are too few for two splits.
    """
    train, validation = split_records((_sum(number, max_terms) for number in range(rows)), VALIDATION_FRACTION)
    return assemble(train, validation, Counter(), "data.dataset.rows", "raise it")


def _sum(number: int, max_terms: int) -> Example:
    count = 2 + int(hash_fraction(f"terms {number}") * (max_terms - 1))
    terms = [1 + int(hash_fraction(f"term {index} of {number}") * LARGEST_TERM) for index in range(count)]
    totals = list(accumulate(terms))
    steps = [f"{before} + {term} = {after}" for before, term, after in zip(totals, terms[1:], totals[1:], strict=False)]
    response = "\n".join(["<think>", *steps, "</think>", str(totals[-1])])
    return Example(Chat([("user", " + ".join(map(str, terms)))]), Turns([("assistant", response)]), None)
