"""The last step from texts to tokens, and the account of what was cut and left out on the way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from gpt_opt.training.data.cache import tokenize_once
from gpt_opt.training.data.collect import Data, left_out
from gpt_opt.training.data.records import Example, Pair
from gpt_opt.training.data.tokenize import Limits, Tokenized, texts_of

HOLDS_END = "text with the end-of-sequence token"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Tokens of both splits.

    Attributes:
        train: Training records.
        validation: Validation records.
        account: What summary.json says of the data: for each split `rows`, `prompts_cut` and `answers_cut` (records
            with an answer that lost its end-of-sequence), and under `dropped` the rows left out, by the reason.
    """

    train: Sequence[Tokenized]
    validation: Sequence[Tokenized]
    account: dict[str, dict[str, int]]


def prepare(data: Data, tokenizer: Any, limits: Limits) -> Prepared:
    """Tokenizes both splits, and says in one line what was cut and what was left out, where anything was.

    Published rows that hold the end-of-sequence token are left out.

    Raises:
        DataError: If a text cannot be used with the tokenizer.
    """
    splits, account, dropped = [], {}, Counter(data.dropped)
    for name, given in (("train", data.train), ("validation", data.validation)):
        records = cast("Sequence[Pair] | Sequence[Example]", [item for item in given if _usable(item, tokenizer)])
        if left := len(given) - len(records):
            dropped[HOLDS_END] += left
        counts = Counter(prompts_cut=0, answers_cut=0)
        splits.append(tokenize_once(records, tokenizer, limits, counts))
        account[name] = {"rows": len(records), **counts}
    account["dropped"] = dict(dropped)
    _tell(account, limits)
    return Prepared(splits[0], splits[1], account)


def _usable(record: Pair | Example, tokenizer: Any) -> bool:
    """Says whether a record is to be tokenized: one that people can correct is, so that it is named where it is bad."""
    end = tokenizer.eos_token
    return record.place is not None or end is None or not any(end in text for text in texts_of(record))


def _tell(account: dict[str, dict[str, int]], limits: Limits) -> None:
    total = {key: account["train"][key] + account["validation"][key] for key in account["train"]}
    room = limits.max_length - limits.max_prompt_length
    answers = min(room, limits.max_completion_length or room)
    parts = [f"of {total['rows']:,} rows"]
    if total["prompts_cut"]:
        parts.append(f"{total['prompts_cut']:,} had their prompt cut to {limits.max_prompt_length} tokens")
    if total["answers_cut"]:
        parts.append(f"{total['answers_cut']:,} an answer to {answers} (end-of-sequence lost)")
    if account["dropped"]:
        parts.append(f"left out before: {left_out(account['dropped'])}")
    if len(parts) > 1:
        log.log(logging.WARNING if total["answers_cut"] else logging.INFO, "data: %s", "; ".join(parts))
