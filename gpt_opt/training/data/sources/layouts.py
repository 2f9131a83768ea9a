"""Which option of the `data` group reads rows like these, for those who chose another one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path

from gpt_opt.config.checks.data import TRAIN
from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.chat import RESPONSE
from gpt_opt.training.data.collect import BadRow, Convert, Row, Rows, UnknownLayout
from gpt_opt.training.data.records import DEMONSTRATIONS, PAIRS, UNPAIRED
from gpt_opt.training.data.sources.columns import Columns, record_of

_SAMPLE = 20
"""So many rows are looked at."""

_LOSSES = {PAIRS: "", DEMONSTRATIONS: " loss=sft", UNPAIRED: " loss=kto"}
"""What an override for each kind of records adds; of several kinds the first here counts."""


def _is_hh(row: Row) -> bool:
    sides = [row.get(side) for side in ("chosen", "rejected")]
    return "prompt" not in row and all(isinstance(side, str) and RESPONSE in side for side in sides)


def _is_shp(row: Row) -> bool:
    return {"history", "human_ref_A", "human_ref_B", "labels"} <= row.keys()


def _is_se(row: Row) -> bool:
    answers = row.get("answers")
    found = answers if isinstance(answers, list) else []
    return "question" in row and bool(found) and all(isinstance(item, dict) and "pm_score" in item for item in found)


def _is_ultrafeedback(row: Row) -> bool:
    return {"chosen", "rejected", "score_chosen", "score_rejected"} <= row.keys()


_PUBLISHED: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "hh": ("Anthropic/hh-rlhf", _is_hh),
    "shp": ("stanfordnlp/SHP", _is_shp),
    "se": ("HuggingFaceH4/stack-exchange-preferences", _is_se),
    "ultrafeedback": ("HuggingFaceH4/ultrafeedback_binarized", _is_ultrafeedback),
}
"""Options with a layout of their own: whose it is, and whether a row has it."""


_SHARE = " data.dataset.validation_split=0.1"
_SPLITS = {"hh": _SHARE, "shp": _SHARE, "se": "", "ultrafeedback": f" data.dataset.split={TRAIN}{_SHARE}"}
"""What each of them needs besides where a file, which has no splits, takes the place of the published data."""


def require_layout(rows: Rows, convert: Convert, option: str, path: str) -> Rows:
    """Returns the rows, unless none of the first can be read by the option, but all by another one.

    Args:
        rows: The rows.
        convert: What a row becomes.
        option: Of the `data` group: what was chosen.
        path: Where the rows are from.

    Raises:
        DataError: If they have another layout, as one problem that says which option reads it; or columns that none
            reads.
    """
    iterator = iter(rows)
    first = list(islice(iterator, _SAMPLE))
    read = [(row, _failure(convert, row)) for _, row in first if not isinstance(row, BadRow)]
    if read and all(failure for _, failure in read):
        found = [row for row, _ in read]
        if advice := _other_option(found, option, path):
            raise DataError([Problem(path, *advice)])
        if all(isinstance(failure, UnknownLayout) for _, failure in read):
            fix = "" if option != "hf" else "say which they are, as in data.dataset.chosen_column=NAME"
            fix = fix or f"data=hf {_quoted(path)} has a key for the name of each column"
            raise DataError([Problem(path, f"each row {read[0][1]}", fix)])
    return chain(first, iterator)


def _failure(convert: Convert, row: Row) -> BadRow | None:
    try:
        list(convert(row))
    except BadRow as error:
        return error
    return None


def _other_option(rows: list[Row], option: str, path: str) -> tuple[str, str] | None:
    """Returns whose layout the rows have, and the option that reads it."""
    for name, (whose, has_layout) in _PUBLISHED.items():
        if name != option and all(map(has_layout, rows)):
            return (
                f"its rows have the layout of {whose}, which data={option} does not read",
                f"data={name} {_quoted(path)}{_SPLITS[name] if Path(path).is_file() else ''}",
            )
    if option in ("hf", "jsonl"):
        return None
    try:
        records = [record for row in rows for record in record_of(row, Columns())]
    except BadRow:
        return None
    kinds = {record.kind for record in records}
    kind, loss = next(item for item in _LOSSES.items() if item[0] in kinds)
    return f"its rows are {kind} by columns, which data={option} does not read", f"data=hf {_quoted(path)}{loss}"


def _quoted(path: str) -> str:
    plain = re.fullmatch(r"[\w./~-]+", path, re.ASCII)
    quoted = path.replace("'", "\\'")  # Hydra's quotes within those of the shell
    return f"data.dataset.path={path}" if plain else shlex.quote(f"data.dataset.path='{quoted}'")
