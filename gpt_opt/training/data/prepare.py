"""The last step from texts to tokens, and the report of what was truncated and left out on the way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

from gpt_opt.errors import Problem
from gpt_opt.training.data.cache import tokenize_once
from gpt_opt.training.data.chat import Turns
from gpt_opt.training.data.collect import left_out, require
from gpt_opt.training.data.demonstrations import mask_method
from gpt_opt.training.data.records import Data, Record, Tokenized, TokenizedExample
from gpt_opt.training.data.tokenize import SequenceLimits
from gpt_opt.training.data.truncated import Indistinct

HOLDS_END = "text with the end-of-sequence token"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Items:
    """What an objective trains and measures on.

    Attributes:
        train: Training items, records with token ids for example.
        validation: Validation items.
        report: What summary.json says of the data: for each split `rows`; `prompts_truncated` and
            `completions_truncated` (with a completion that lost its end-of-sequence), which count those that were left
            out for it as well; and under `dropped` the rows left out, by the reason. Where there are demonstrations,
            for each split also `sequences`, `learned_completions` (turns of the assistant, in dialogues),
            `learned_tokens` and `context_tokens`.
        fingerprint: SHA-256 of what is trained and measured on: that of the data, unless truncation left rows out.
    """

    train: Sequence[Any]
    validation: Sequence[Any]
    report: dict[str, dict[str, int]]
    fingerprint: str


def prepare(data: Data, tokenizer: Any, limits: SequenceLimits) -> Items:
    """Tokenizes both splits, and says in one line what was truncated and what was left out, where anything was.

    Published rows that hold the end-of-sequence token are left out, rows that are too long where nothing is truncated,
    and rows that truncation left with nothing to learn from.

    Raises:
        DataError: If a text cannot be used with the tokenizer, or truncation leaves no rows, or nothing of prompts.
    """
    splits: list[Sequence[Tokenized]] = []
    report: dict[str, dict[str, int]] = {}
    dropped, truncated = Counter(data.dropped), Counter[str]()
    indistinct, omitted = Indistinct(tokenizer, limits), list[list[int]]()
    has_demonstrations = any(record.is_demonstration for record in (*data.train, *data.validation))
    for name, given in (("train", data.train), ("validation", data.validation)):
        records = [record for record in given if _usable(record, tokenizer)]
        if left := len(given) - len(records):
            dropped[HOLDS_END] += left
        counts = Counter(prompts_truncated=0, completions_truncated=0)
        items = tokenize_once(records, tokenizer, limits, counts)
        reasons = indistinct.reasons(records, items)
        truncated.update(reasons.values())
        omitted.append(sorted(reasons))
        kept = [index for index in range(len(items)) if index not in reasons] if reasons else range(len(items))
        splits.append([items[index] for index in kept] if reasons else items)
        report[name] = {"rows": len(splits[-1]), **counts}
        if has_demonstrations:
            used = [records[index] for index in kept]
            learned = _learned(used, splits[-1])
            splits[-1] = list(_sequences(used, splits[-1], limits.max_length))
            report[name] |= {"sequences": len(splits[-1]), **learned}
    require(_too_short(data, report, truncated, limits))
    report["dropped"] = dict(dropped + truncated)
    _log(report, truncated, limits)
    if has_demonstrations:
        _log_learned(data, Counter(report["train"]) + Counter(report["validation"]), tokenizer)
    fingerprint = sha256(f"{data.fingerprint}{omitted}".encode()).hexdigest() if truncated else data.fingerprint
    return Items(splits[0], splits[1], report, fingerprint)


def _usable(record: Record, tokenizer: Any) -> bool:
    """Says whether a record is to be tokenized: one that people can correct is, so that it is named where it is bad."""
    end = tokenizer.eos_token
    if record.is_text:
        return True  # it may hold several documents, or turns
    return record.source is not None or end is None or not any(end in text for text in record.texts)


def _sequences(records: Sequence[Any], tokenized: Sequence[Any], most: int) -> Iterator[TokenizedExample]:
    """Yields what goes into a batch: of a long text one sequence after the other, each token learned once."""
    for record, item in zip(records, tokenized, strict=True):
        ids, done = [*item.prompt, *item.completion], len(item.prompt)
        if not record.is_text or len(ids) <= most:
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
        if record.is_text:
            found += Counter(learned_tokens=len(item.completion), context_tokens=len(item.prompt))
            continue
        runs = [(learned, len(list(run))) for learned, run in groupby(item.completion, key=lambda token: token >= 0)]
        found["learned_tokens"] += sum(length for learned, length in runs if learned)
        found["context_tokens"] += len(item.prompt) + sum(length for learned, length in runs if not learned)
        found["learned_completions"] += sum(learned for learned, _ in runs)
    return {key: found[key] for key in ("learned_completions", "learned_tokens", "context_tokens")}


def _log_learned(data: Data, total: Counter[str], tokenizer: Any) -> None:
    texts = sum(record.is_text for record in (*data.train, *data.validation))
    turns = any(isinstance(record.texts[1], Turns) for record in (*data.train, *data.validation))
    what = [f"all of {texts:,} texts"] if texts else []
    if total["learned_completions"]:
        which = f", of dialogues every turn of the assistant (by {mask_method(tokenizer)})" if turns else ""
        what.append(f"{total['learned_completions']:,} completions{which}")
    log.info(
        "data: learned are %s: %s tokens in %s sequences; %s tokens before and between them are context",
        " and ".join(what),
        *(f"{total[key]:,}" for key in ("learned_tokens", "sequences", "context_tokens")),
    )


def _too_short(
    data: Data, report: dict[str, dict[str, int]], truncated: Counter[str], limits: SequenceLimits
) -> Iterator[Problem]:
    """Yields why the limits leave too little of the data."""
    splits, keys = (report["train"], report["validation"]), "training.training_params"
    if truncated and not all(split["rows"] for split in splits):
        left = " and ".join(f"{split['rows']:,}" for split in splits)
        of = " and ".join(f"{len(records):,}" for records in (data.train, data.validation))
        problem = f"must leave rows for training and for validation, but leaves {left} of {of}"
        fix = f"raise it ({limits.max_length}), or "
        lower = f"lower max_prompt_length ({limits.max_prompt_length})"
        fix += lower if limits.truncation_side else f"truncate: {keys}.truncation=keep_end"
        yield Problem(f"{keys}.max_length", f"{problem}; left out: {left_out(truncated)}", fix)
    special = len(limits.special_tokens)
    if limits.max_prompt_length <= special and any(split["prompts_truncated"] for split in splits):
        problem = (
            f"must be above {special}, the tokens that every prompt starts with, but is {limits.max_prompt_length}"
        )
        yield Problem(f"{keys}.max_prompt_length", problem, "else nothing is left of a truncated prompt")


def _log(report: dict[str, dict[str, int]], truncated: Counter[str], limits: SequenceLimits) -> None:
    total = {key: report["train"][key] + report["validation"][key] for key in report["train"]}
    room = limits.max_length - limits.max_prompt_length
    longest = min(room, limits.max_completion_length or room)
    parts = [f"of {total['rows'] + sum(truncated.values()):,} rows"]
    if total["prompts_truncated"]:
        parts.append(f"{total['prompts_truncated']:,} had their prompt truncated to {limits.max_prompt_length} tokens")
    if total["completions_truncated"]:
        completion = f", or {limits.max_completion_length} after the prompt" if limits.max_completion_length else ""
        beyond = f"their end beyond {limits.max_length}{completion}"
        what = f"a completion to {longest}" if "learned_tokens" not in total else beyond
        parts.append(f"{total['completions_truncated']:,} {what} (end-of-sequence lost)")
    if report["dropped"]:
        parts.append(f"left out: {left_out(report['dropped'])}")
    if len(parts) > 1:
        log.log(logging.WARNING if total["completions_truncated"] else logging.INFO, "data: %s", "; ".join(parts))
