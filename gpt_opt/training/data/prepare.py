"""The last step from texts to tokens, and the account of what was cut and left out on the way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

from gpt_opt.training.data.cache import tokenize_once
from gpt_opt.training.data.chat import Turns
from gpt_opt.training.data.collect import Data, left_out
from gpt_opt.training.data.demonstrations import is_demonstration, is_text, way
from gpt_opt.training.data.records import Example, Pair
from gpt_opt.training.data.tokenize import Limits, Tokenized, TokenizedExample, texts_of

HOLDS_END = "text with the end-of-sequence token"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Tokens of both splits.

    Attributes:
        train: Training records.
        validation: Validation records.
        account: What summary.json says of the data: for each split `rows`, `prompts_cut` and `answers_cut` (records
            with an answer that lost its end-of-sequence), and under `dropped` the rows left out, by the reason. Where
            there are demonstrations, for each split also `sequences`, `learned_completions` (turns of the
            assistant, in dialogues), `learned_tokens` and `context_tokens`.
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
    shown = any(is_demonstration(record) for record in (*data.train, *data.validation))
    for name, given in (("train", data.train), ("validation", data.validation)):
        records = cast("Sequence[Pair] | Sequence[Example]", [item for item in given if _usable(item, tokenizer)])
        if left := len(given) - len(records):
            dropped[HOLDS_END] += left
        counts = Counter(prompts_cut=0, answers_cut=0)
        tokenized = tokenize_once(records, tokenizer, limits, counts)
        account[name] = {"rows": len(records), **counts}
        if shown:
            learned = _learned(records, tokenized)
            tokenized = list(_sequences(records, tokenized, limits.max_length))
            learned["sequences"] = len(tokenized)
            account[name] |= learned
        splits.append(tokenized)
    account["dropped"] = dict(dropped)
    _tell(account, limits)
    if shown:
        _tell_learned(data, Counter(account["train"]) + Counter(account["validation"]), tokenizer)
    return Prepared(splits[0], splits[1], account)


def _usable(record: Pair | Example, tokenizer: Any) -> bool:
    """Says whether a record is to be tokenized: one that people can correct is, so that it is named where it is bad."""
    end = tokenizer.eos_token
    if is_text(record):
        return True  # it may hold several documents, or turns
    return record.place is not None or end is None or not any(end in text for text in texts_of(record))


def _sequences(records: Sequence[Any], tokenized: Sequence[Any], most: int) -> Iterator[TokenizedExample]:
    """Yields what goes into a batch: of a long text one sequence after the other, each token learned once."""
    for record, item in zip(records, tokenized, strict=True):
        ids, done = [*item.prompt, *item.completion], len(item.prompt)
        if not is_text(record) or len(ids) <= most:
            yield item
            continue
        first = 0
        while done < len(ids):
            end = first + most
            yield TokenizedExample(ids[first:done], ids[done:end], item.desirable)
            done, first = end, end - 1  # the last token is what the next sequence goes on from


def _learned(records: Sequence[Any], items: Sequence[Any]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for record, item in zip(records, items, strict=True):
        if is_text(record):
            found += Counter(learned_tokens=len(item.completion), context_tokens=len(item.prompt))
            continue
        runs = [(learned, len(list(run))) for learned, run in groupby(item.completion, key=lambda token: token >= 0)]
        found["learned_tokens"] += sum(length for learned, length in runs if learned)
        found["context_tokens"] += len(item.prompt) + sum(length for learned, length in runs if not learned)
        found["learned_completions"] += sum(learned for learned, _ in runs)
    return {key: found[key] for key in ("learned_completions", "learned_tokens", "context_tokens")}


def _tell_learned(data: Data, total: Counter[str], tokenizer: Any) -> None:
    texts = sum(is_text(record) for record in (*data.train, *data.validation))
    turns = any(isinstance(texts_of(record)[1], Turns) for record in (*data.train, *data.validation))
    what = [f"all of {texts:,} texts"] if texts else []
    if total["learned_completions"]:
        which = f", of dialogues every turn of the assistant (by {way(tokenizer)})" if turns else ""
        what.append(f"{total['learned_completions']:,} completions{which}")
    log.info(
        "data: learned are %s: %s tokens in %s sequences; %s tokens before and between them are context",
        " and ".join(what),
        *(f"{total[key]:,}" for key in ("learned_tokens", "sequences", "context_tokens")),
    )


def _tell(account: dict[str, dict[str, int]], limits: Limits) -> None:
    total = {key: account["train"][key] + account["validation"][key] for key in account["train"]}
    answers = limits.max_length - limits.max_prompt_length
    parts = [f"of {total['rows']:,} rows"]
    if total["prompts_cut"]:
        parts.append(f"{total['prompts_cut']:,} had their prompt cut to {limits.max_prompt_length} tokens")
    if total["answers_cut"]:
        what = f"an answer to {answers}" if "learned_tokens" not in total else f"their end beyond {limits.max_length}"
        parts.append(f"{total['answers_cut']:,} {what} (end-of-sequence lost)")
    if account["dropped"]:
        parts.append(f"left out before: {left_out(account['dropped'])}")
    if len(parts) > 1:
        log.log(logging.WARNING if total["answers_cut"] else logging.INFO, "data: %s", "; ".join(parts))
