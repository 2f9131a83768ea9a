"""Runs as an Arrow table, the form in which rows are kept and brought together before they become a frame.

A config value is the index of its JSON text among the different texts of its key: so the kind of every value survives
(1, 1.0, true, "1"), and what thousands of runs have alike is there once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from analysis.entries import Entries
from analysis.run_rows import RunRow

TIME: Final = "datetime64[us, UTC]"

RUN_COLUMNS: Mapping[str, str] = {
    "run_id": "str",
    "state": "str",
    "step": "Int64",
    "total_steps": "Int64",
    "attempt": "Int64",
    "started": TIME,
    "updated": TIME,
    "time_s": "float64",
    "tokens": "Int64",
    "peak_memory_mb": "float64",
    "error": "str",
    "path": "str",
    "reason": "str",
}
"""The columns that every frame of runs has, with their types; `reason` says why a run is broken or has no directory."""

SWEEP_COLUMNS: Mapping[str, str] = {"index": "str", "stage": "str"}
"""The further columns of the runs of a sweep: what people call a run (`3`, `dpo/3`), and its stage."""

KEYS: Final = "config keys"
"""Column with the config keys of a run in their order, a JSON list; null where its config is not known."""

NAMES: Final = "metric names"
"""Column with the names of the metrics of a run, a JSON list."""

PLANNED: Final = "planned"
"""Column that says of which runs no more is known than what identifies them."""

_ARROW = {"Int64": pa.int64(), "float64": pa.float64()}
_TEXT = pa.dictionary(pa.int32(), pa.string())


def metric_column(name: str) -> str:
    """Returns what the column of a metric is called in a table."""
    return f"m:{json.dumps(name)}"


def config_column(key: str) -> str:
    """Returns what the column of a config key is called in a table."""
    return f"c:{json.dumps(key)}"


def plain_text(text: str) -> str:
    """Returns a string without what is no character: a file name that is no UTF-8 has its bytes as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _fixed(values: list[Any], dtype: str) -> pa.Array:
    if dtype == TIME:
        times = pd.to_datetime(pd.Series(values, dtype="str"), utc=True, format="ISO8601", errors="coerce")
        return pa.Array.from_pandas(times.astype(TIME))
    if dtype != "str":
        return pa.array(values, _ARROW[dtype])
    return pa.array([value if value is None else plain_text(value) for value in values], pa.string())


def _json_lists(rows: Iterable[Iterable[str]]) -> pa.Array:
    """Returns lists of names as JSON; an empty one is null."""
    numbers: dict[tuple[str, ...], int] = {}
    codes = [numbers.setdefault(names, len(numbers)) if names else None for names in map(tuple, rows)]
    return _coded(codes, [json.dumps(names) for names in numbers])


def _coded(codes: Sequence[int | None], texts: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(texts, pa.string()))


_ONE_KIND = ({str}, {int}, {float}, {bool})


def _config(values: list[Any]) -> pa.Array:
    """Returns config values by their JSON texts; None is null."""
    if set(map(type, values)) - {type(None)} in _ONE_KIND:
        different = dict.fromkeys(values)
        different.pop(None, None)
        numbers = {value: number for number, value in enumerate(different)}
        return _coded(list(map(numbers.get, values)), list(map(json.dumps, different)))
    texts = [None if value is None else json.dumps(value, default=str) for value in values]  # YAML has dates
    return pa.array(texts, pa.string()).dictionary_encode()


def _union(records: Iterable[Iterable[str]]) -> list[str]:
    """Returns every name once, in the order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))


def _table(rows: Sequence[RunRow]) -> pa.Table:
    """Returns the table of runs, a row each in their order."""
    types = {**RUN_COLUMNS, **SWEEP_COLUMNS}
    columns = {name: _fixed([row.fixed.get(name) for row in rows], dtype) for name, dtype in types.items()}
    columns[KEYS] = _json_lists(row.config for row in rows)
    columns[NAMES] = _json_lists(row.metrics for row in rows)
    columns[PLANNED] = pa.array([row.planned for row in rows], pa.bool_())
    for name in _union({tuple(row.metrics): None for row in rows}):
        columns[metric_column(name)] = pa.array([row.metrics.get(name) for row in rows], pa.float64())
    for key in _union({tuple(row.config): None for row in rows}):
        columns[config_column(key)] = _config([row.config.get(key) for row in rows])
    return pa.table(columns)


def run_entries(rows: Sequence[RunRow]) -> Entries:
    """Returns runs, a row each in their order, with the columns of this module."""
    paths = [row.fixed["path"] for row in rows]
    settled = [b"" if row.settled else None for row in rows]
    problems = [list(row.problems) for row in rows]
    return Entries(paths, settled, np.ones(len(rows), "int64"), [""] * len(rows), problems, _table(rows))


def _lists(column: pa.ChunkedArray) -> list[list[str]]:
    """Returns the different lists in a column of JSON lists, in the order of their first rows."""
    coded = _one_chunk(column)
    texts = coded.dictionary.to_pylist()
    return [json.loads(texts[code]) for code in dict.fromkeys(coded.indices.to_pylist()) if code is not None]


def _one_chunk(column: pa.ChunkedArray) -> pa.DictionaryArray:
    joined = column.unify_dictionaries().combine_chunks()
    return joined if isinstance(joined, pa.DictionaryArray) else pa.array([], _TEXT)


def metric_names(table: pa.Table) -> list[str]:
    """Returns the names of the metrics that runs of a table have."""
    return _union(_lists(table[NAMES]))


def config_keys(table: pa.Table) -> list[str]:
    """Returns the config keys that runs of a table have, in the order of their first appearance."""
    return _union(_lists(table[KEYS]))


def config_values(table: pa.Table, key: str) -> tuple[npt.NDArray[np.int32], list[Any]]:
    """Returns the values of a config key.

    Returns:
        The index of the value of each run, -1 where it has none; and the values, some of which no run may have.
    """
    coded = _one_chunk(table[config_column(key)])
    return coded.indices.fill_null(-1).to_numpy(), json.loads(f"[{','.join(coded.dictionary.to_pylist())}]")
