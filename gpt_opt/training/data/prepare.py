"""The last step from texts to tokens, and the account of what was cut and left out on the way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any, cast

from gpt_opt.errors import Problem
from gpt_opt.training.data.cache import tokenize_once
from gpt_opt.training.data.chat import Turns
from gpt_opt.training.data.collect import Data, left_out, require
from gpt_opt.training.data.demonstrations import is_demonstration, is_text, way
from gpt_opt.training.data.records import Example, Pair
from gpt_opt.training.data.tokenize import Limits, Tokenized, TokenizedExample, texts_of
from gpt_opt.training.data.truncated import Indistinct

HOLDS_END = "text with the end-of-sequence token"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Tokens of both splits.

    Attributes:
        train: Training records.
        validation: Validation records.
        account: What summary.json says of the data: for each split `rows`; `prompts_cut` and `answers_cut` (with an
            answer that lost its end-of-sequence), which count those that were left out for it as well; and under
            `dropped` the rows left out, by the reason. Where there are demonstrations, for each split also `sequences`,
            `learned_completions` (turns of the assistant, in dialogues), `learned_tokens` and `context_tokens`.
        fingerprint: What names the rows that are used: that of the data, unless truncation left some out.
    """

    train: Sequence[Tokenized]
    validation: Sequence[Tokenized]
    account: dict[str, dict[str, int]]
    fingerprint: str


def prepare(data: Data, tokenizer: Any, limits: Limits) -> Prepared:
    """Tokenizes both splits, and says in one line what was cut and what was left out, where anything was.

    Published rows that hold the end-of-sequence token are left out, and rows that truncation left with nothing to learn
    from.

    Raises:
        DataError: If a text cannot be used with the tokenizer, or truncation leaves no rows, or nothing of prompts.
    """
    splits: list[Sequence[Tokenized]] = []
    account: dict[str, dict[str, int]] = {}
    dropped, truncated = Counter(data.dropped), Counter[str]()
    indistinct, omitted = Indistinct(tokenizer, limits), list[list[int]]()
    shown = any(is_demonstration(record) for record in (*data.train, *data.validation))
    for name, given in (("train", data.train), ("validation", data.validation)):
        records = cast("Sequence[Pair] | Sequence[Example]", [item for item in given if _usable(item, tokenizer)])
        if left := len(given) - len(records):
            dropped[HOLDS_END] += left
        counts = Counter(prompts_cut=0, answers_cut=0)
        items = tokenize_once(records, tokenizer, limits, counts)
        reasons = indistinct.reasons(records, items)
        truncated.update(reasons.values())
        omitted.append(sorted(reasons))
        kept = [index for index in range(len(items)) if index not in reasons] if reasons else range(len(items))
        splits.append([items[index] for index in kept] if reasons else items)
        account[name] = {"rows": len(splits[-1]), **counts}
        if shown:
            learned = _learned([records[index] for index in kept], splits[-1])
            splits[-1] = list(_sequences([records[index] for index in kept], splits[-1], limits.max_length))
            account[name] |= {"sequences": len(splits[-1]), **learned}
    require(_too_short(data, account, truncated, limits))
    account["dropped"] = dict(dropped + truncated)
    _tell(account, truncated, limits)
    if shown:
        _tell_learned(data, Counter(account["train"]) + Counter(account["validation"]), tokenizer)
    fingerprint = sha256(f"{data.fingerprint}{omitted}".encode()).hexdigest() if truncated else data.fingerprint
    return Prepared(splits[0], splits[1], account, fingerprint)


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


def _too_short(
    data: Data, account: dict[str, dict[str, int]], truncated: Counter[str], limits: Limits
) -> Iterator[Problem]:
    """Yields why the limits leave too little of the data."""
    splits, keys = (account["train"], account["validation"]), "training.training_params"
    if truncated and not all(split["rows"] for split in splits):
        left = " and ".join(f"{split['rows']:,}" for split in splits)
        of = " and ".join(f"{len(records):,}" for records in (data.train, data.validation))
        problem = f"must leave rows for training and for validation, but leaves {left} of {of}"
        fix = f"raise it ({limits.max_length}), or lower max_prompt_length ({limits.max_prompt_length})"
        yield Problem(f"{keys}.max_length", f"{problem}; left out: {left_out(truncated)}", fix)
    start = len(limits.start)
    if limits.max_prompt_length <= start and any(split["prompts_cut"] for split in splits):
        problem = f"must be above {start}, the tokens that every prompt starts with, but is {limits.max_prompt_length}"
        yield Problem(f"{keys}.max_prompt_length", problem, "else nothing is left of a truncated prompt")


def _tell(account: dict[str, dict[str, int]], truncated: Counter[str], limits: Limits) -> None:
    total = {key: account["train"][key] + account["validation"][key] for key in account["train"]}
    room = limits.max_length - limits.max_prompt_length
    answers = min(room, limits.max_completion_length or room)
    parts = [f"of {total['rows'] + sum(truncated.values()):,} rows"]
    if total["prompts_cut"]:
        parts.append(f"{total['prompts_cut']:,} had their prompt cut to {limits.max_prompt_length} tokens")
    if total["answers_cut"]:
        completion = f", or {limits.max_completion_length} after the prompt" if limits.max_completion_length else ""
        beyond = f"their end beyond {limits.max_length}{completion}"
        what = f"an answer to {answers}" if "learned_tokens" not in total else beyond
        parts.append(f"{total['answers_cut']:,} {what} (end-of-sequence lost)")
    if account["dropped"]:
        parts.append(f"left out: {left_out(account['dropped'])}")
    if len(parts) > 1:
        log.log(logging.WARNING if total["answers_cut"] else logging.INFO, "data: %s", "; ".join(parts))
