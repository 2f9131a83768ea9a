"""Rows to leave out for their length: too long ones, and those that truncation left with nothing to learn from."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from typing import Any

from gpt_opt.training.data.records import Record, Tokenized
from gpt_opt.training.data.tokenize import SequenceLimits

TOO_LONG = "longer than max_length"
EQUAL = "pair with equal completions after truncation"
EMPTY = "completion truncated to nothing but white space"
CONTRADICTORY = "completion wanted in one row and unwanted in another after truncation"
REPEATED = "equal to another row after truncation"


class Indistinct:
    """Finds the rows of one split after another that must be left out as they were truncated, or would have to be.

    Rows whose texts are equal are no matter of truncation: they stay as the data has them.

    Args:
        tokenizer: Of the tokens.
        limits: What the rows were truncated to.
    """

    def __init__(self, tokenizer: Any, limits: SequenceLimits) -> None:
        self._end, self._limits = tokenizer.eos_token_id, limits
        self._earlier: dict[bytes, Any] = {}
        self._is_blank = cache(lambda token: not tokenizer.decode([token]).strip())

    def reasons(self, records: Sequence[Record], items: Sequence[Tokenized]) -> dict[int, str]:
        """Returns why rows are to be left out, by their index.

        A row that equals one of an earlier split is; of equal rows within the split the first one stays, unless the
        same completion is wanted in some of them and unwanted in others.

        Args:
            records: The texts of a split.
            items: Their tokens.
        """
        found: dict[int, str] = {}
        same: defaultdict[bytes, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            if reason := self._too_long(records[index], item) or self._nothing_left(item):
                found[index] = reason
            elif self._may_be_truncated(item):
                same[_digest(item)].append(index)
        for digest, indices in same.items():
            texts = [_texts(records[index]) for index in indices]
            if self._earlier.get(digest, texts[0]) != texts[0]:
                found |= dict.fromkeys(indices, REPEATED)
            elif any(text != texts[0] for text in texts):
                contradict = any(items[index] != items[indices[0]] for index in indices)
                others = (index for index, text in zip(indices, texts, strict=True) if text != texts[0])
                found |= dict.fromkeys(indices, CONTRADICTORY) if contradict else dict.fromkeys(others, REPEATED)
            self._earlier.setdefault(digest, texts[0])
        return found

    def _too_long(self, record: Record, item: Tokenized) -> str | None:
        prompt, *completions = item.ids
        fits = len(prompt) + max(map(len, completions)) <= self._limits.max_length
        return None if fits or record.is_text or self._limits.truncation_side else TOO_LONG

    def _nothing_left(self, item: Tokenized) -> str | None:
        _, *completions = item.ids
        if completions[1:] == completions[:1]:
            return EQUAL
        return EMPTY if any(self._is_truncated(ids) and self._are_blank(ids) for ids in completions) else None

    def _are_blank(self, completion: Sequence[int]) -> bool:
        return all(self._is_blank(token) for token in completion if token >= 0)  # the others are context

    def _may_be_truncated(self, item: Tokenized) -> bool:
        prompt, *completions = item.ids
        return len(prompt) == self._limits.max_prompt_length or any(map(self._is_truncated, completions))

    def _is_truncated(self, completion: Sequence[int]) -> bool:
        return not completion or completion[-1] != self._end


def _digest(item: Tokenized) -> bytes:
    """Returns what names the tokens of a row, whichever completion is the wanted one."""
    prompt, *completions = item.ids
    digest = blake2b(digest_size=16)
    for ids in (prompt, *sorted(completions)):
        digest.update(array("q", [len(ids), *ids]).tobytes())
    return digest.digest()


def _texts(record: Record) -> Any:
    prompt, *completions = record.texts
    return prompt, frozenset(completions)
