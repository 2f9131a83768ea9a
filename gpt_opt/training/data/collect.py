"""From rows to two splits of records: every bad row named, every row that is left out counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from gpt_opt.errors import DataError, Problem, distinct_problems
from gpt_opt.training.data.chat import Chat, Document
from gpt_opt.training.data.records import Data, Example, Record, fingerprint_records

Row = Mapping[str, Any]

MAX_PROBLEMS = 50
"""Bad rows that one error names; the others are counted."""


class BadRow(Exception):
    """A row that cannot be what it must be; the message says why."""


class UnknownLayout(BadRow):
    """A row whose columns are not those that are read."""


@dataclass(frozen=True)
class Dropped:
    """Something in a row that is left out on purpose.

    Attributes:
        reason: Why, in a few words.
    """

    reason: str


Rows = Iterable[tuple[str, Row | BadRow]]
"""Rows with their sources (`file:line`); one that could not even be read is its `BadRow`."""

Convert = Callable[[Row], Iterable[Record | Dropped]]
"""Makes the records of a row; raises `BadRow`."""


def collect(
    rows: Rows, convert: Convert, max_samples: int | None, dropped: Counter[str], published: bool = False
) -> list[Record]:
    """Makes records of rows.

    Args:
        rows: The rows.
        convert: What a row becomes.
        max_samples: Stop at so many records; None takes all.
        dropped: Where to count what is left out.
        published: Whether nobody can correct the rows: their records have no source.

    Raises:
        DataError: If any row is bad: all are named, up to `MAX_PROBLEMS`.
    """
    records: list[Record] = []

    def problems() -> Iterator[Problem]:
        for where, row in rows:
            try:
                if isinstance(row, BadRow):
                    raise row
                for item in convert(row):
                    if isinstance(item, Dropped):
                        dropped[item.reason] += 1
                    else:
                        records.append(replace(item, source=None if published else where))
                    if max_samples is not None and len(records) >= max_samples:
                        return
            except BadRow as error:
                yield Problem(where, str(error))

    require(problems())
    return records


def require(problems: Iterator[Problem]) -> None:
    """Raises the problems that an iterator yields, if any.

    Raises:
        DataError: With each mistake once and the number of rows that have it; of very many, the first `MAX_PROBLEMS`.
    """
    named = distinct_problems(problems)
    if others := len(named) - MAX_PROBLEMS:
        more = Problem("data.dataset", f"{others:,} more mistakes are in other rows")
        named = [*named[:MAX_PROBLEMS], more] if others > 0 else named
    if named:
        raise DataError(named)


def hash_fraction(text: str, salt: str = "") -> float:
    """Returns a number in [0, 1) that depends on the text, and on the salt, alone."""
    return int.from_bytes(hashlib.sha256((salt + text).encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def split_records(records: Iterable[Record], validation_split: float) -> tuple[list[Record], list[Record]]:
    """Splits records into training and validation by a hash of the prompt; of a whole document, holds out the end.

    Records with one prompt go to the same side, and more records move no other one.
    """
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        if isinstance(whole := record.texts[1], Document):
            for side, text in zip(sides, _split_document(whole, validation_split), strict=True):
                if text.strip():
                    side.append(replace(cast("Example", record), completion=Document(text)))
        else:
            sides[hash_fraction(asked(record)) < validation_split].append(record)
    return sides


def _split_document(text: str, held_out: float) -> tuple[str, str]:
    """Splits a text at the end of a line, or of a word where it has no lines."""
    most = int(len(text) * (1 - held_out))
    border = next((end for sign in "\n " if (end := text.rfind(sign, 0, most) + 1)), most)
    return text[:border], text[border:]


def asked(record: Record) -> str:
    """Returns what decides on which side a record is: its prompt, or all of it where that asks nothing."""
    prompt = record.prompt
    if not record.is_demonstration:
        return prompt
    asks = any(role == "user" for role, _ in prompt.messages) if isinstance(prompt, Chat) else bool(prompt)
    return prompt if asks else "".join(record.texts)


def assemble(
    train: Sequence[Record], validation: Sequence[Record], dropped: Counter[str], where: str, advice: str
) -> Data:
    """Makes a data set of two splits: no record twice, no prompt in both.

    Args:
        train: Records to learn from.
        validation: Records to measure on. One whose prompt is trained on is left out.
        dropped: What was left out before.
        where: The source that an empty split is attributed to.
        advice: What to do about one.

    Raises:
        DataError: If a split is empty.
    """
    prompts = {asked(record) for record in train}
    unseen = [record for record in validation if asked(record) not in prompts]
    splits = [tuple(dict.fromkeys(records)) for records in (train, unseen)]
    own = Counter({"validation row with a prompt of the training split": len(validation) - len(unseen)})
    own["duplicate"] = len(train) + len(unseen) - sum(map(len, splits))
    all_dropped = dropped + own  # which leaves out what is 0
    if not all(splits):
        sizes = " and ".join(str(len(records)) for records in splits)
        why = f"; left out: {left_out(all_dropped)}" if all_dropped else ""
        problem = f"must give rows for training and for validation, but gives {sizes}{why}"
        raise DataError([Problem(where, problem, advice)])
    return Data(splits[0], splits[1], fingerprint_records(*splits), dict(all_dropped))


def left_out(dropped: Mapping[str, int]) -> str:
    """Returns what was left out and why, as a text."""
    return ", ".join(f"{count:,} ({reason})" for reason, count in dropped.items())


def more_rows(validation_split: float | str) -> str:
    """Returns what to do about an empty split."""
    return f"add rows with other prompts, or change data.dataset.validation_split={validation_split}"
