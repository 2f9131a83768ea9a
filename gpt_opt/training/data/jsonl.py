"""Preference pairs from a file of the user's own, with every bad row named at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.records import Pair, PairData, fingerprint_pairs


def build_jsonl(
    path: str,
    prompt_column: str,
    chosen_column: str,
    rejected_column: str,
    max_samples: int | None,
    validation_split: float,
) -> PairData:
    """Reads one JSON object a line into pairs; nothing is stripped from a text or added to it.

    Pairs with the same prompt go to the same split, chosen by a hash of the prompt: adding rows moves no other row.

    Args:
        path: The file, UTF-8.
        prompt_column: Key of the prompt.
        chosen_column: Key of the preferred answer.
        rejected_column: Key of the other answer.
        max_samples: Use only the first so many rows; None uses all.
        validation_split: Share of the prompts for validation, in (0, 1).

    Raises:
        DataError: If any row is bad (all are named, with their lines), or a split stays empty.
    """
    columns = (prompt_column, chosen_column, rejected_column)
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for number, line in enumerate(_lines(Path(path)), start=1):
        if max_samples is not None and len(pairs) >= max_samples:
            break
        found = _pair(line, columns)
        if isinstance(found, Pair):
            pairs.append(found)
        elif found:
            problems.append(Problem(f"{path}:{number}", found))
    if problems:
        raise DataError(problems)
    splits: dict[bool, list[Pair]] = {False: [], True: []}
    for pair in dict.fromkeys(pairs):
        splits[_share(pair.prompt) < validation_split].append(pair)
    train, validation = tuple(splits[False]), tuple(splits[True])
    if not train or not validation:
        raise DataError([_empty(path, len(train), len(validation), validation_split)])
    return PairData(train, validation, fingerprint_pairs(train, validation))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            yield from stream
    except OSError as error:
        raise DataError([Problem("data.dataset.path", f"must be a readable file, but: {error}")]) from error


def _pair(line: bytes, columns: tuple[str, str, str]) -> Pair | str:
    """Returns the pair of a line, or what is wrong with it; an empty text for a blank line."""
    if not line.strip():
        return ""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"must be UTF-8, but byte {error.start} is 0x{line[error.start]:02x}"
    except json.JSONDecodeError as error:
        return f"must be a JSON object, but: {error.msg} at column {error.colno}"
    if not isinstance(row, dict):
        return f"must be a JSON object, but is a {type(row).__name__}"
    if wrong := [text for column in columns if (text := _wrong(row, column))]:
        return "; ".join(wrong)
    prompt, chosen, rejected = (row[column] for column in columns)
    if chosen == rejected:
        return f"{columns[1]} and {columns[2]} must differ, but are equal"
    return Pair(prompt, chosen, rejected)


def _wrong(row: dict[str, Any], column: str) -> str:
    if column not in row:
        return f"has no {column!r} (its keys: {', '.join(row) or 'none'})"
    if not isinstance(row[column], str):
        return f"{column!r} must be a string, but is {json.dumps(row[column])[:60]}"
    if any("\ud800" <= character <= "\udfff" for character in row[column]):
        return f"{column!r} must be Unicode text, but holds half of a surrogate pair"
    return "" if row[column].strip() else f"{column!r} is empty"


def _share(text: str) -> float:
    """Returns a number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def _empty(path: str, train: int, validation: int, share: float) -> Problem:
    return Problem(
        path,
        f"must give pairs for training and for validation, but with validation_split={share} gives {train} and "
        f"{validation}",
        "add rows with other prompts, or change data.dataset.validation_split",
    )
