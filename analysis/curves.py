"""The metrics.jsonl of runs as rows of steps: by pyarrow's JSON reader over many files at once, or line by line.

The quick way takes only files of which both ways are known to make the same: plain lines of ASCII, each an object, with
a newline at the end of the last, no null (in Arrow a null is no value, but a null that is written again for a step
replaces the value of before). Where pyarrow refuses anything, or makes anything but numbers of it, each of these files
is read line by line, which is what says what is wrong with it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.json

from analysis.entries import Entries, joined
from analysis.files import Problems, number, read_rows
from analysis.run_table import TIME, plain_text
from gpt_opt.records.metrics import EVALUATION, METRICS, in_order
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.step_log import NOT_METRICS

METRIC_COLUMNS: Final = {"run_id": "category", "path": "category", "step": "int64", "time": TIME}
"""The columns that every frame of metrics has, with their types; the metrics follow."""

_BATCH_BYTES = 1 << 22
"""Files that are read together; all of it is in a processor's cache while it is parsed."""

_REFUSED = (b"null", b"Inf", b"\r")
"""What a file of the quick way does not have: see above; `Inf` is a number to pyarrow alone."""

_KNOWN = [name for base in METRICS for name in (base, EVALUATION + base)]
_SCHEMA = pa.schema([("step", pa.int64()), *((name, pa.float64()) for name in ("time", *_KNOWN))])


def _is_plain(data: bytes) -> bool:
    """Returns whether a file is fit for the quick way: each of its lines begins an object, and none is empty."""
    lines = data.count(b"\n")
    starts = data.count(b'\n{"') + data.startswith(b'{"')
    return starts == lines and data.endswith(b"\n") and data.isascii() and not any(item in data for item in _REFUSED)


def _quick(files: Sequence[bytes]) -> pa.Table | None:
    """Returns the rows of all lines of plain files, None where pyarrow sees anything that needs a closer look."""
    source = pa.BufferReader(b"".join(files))
    options = pyarrow.json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="infer")
    try:
        block = pyarrow.json.ReadOptions(use_threads=False, block_size=source.size() + 1)
        table = pyarrow.json.read_json(source, block, options).combine_chunks()
    except pa.ArrowInvalid:
        return None
    if table.num_rows != sum(data.count(b"\n") for data in files) or table["step"].null_count:
        return None
    if not all(pa.types.is_integer(item.type) or pa.types.is_floating(item.type) for item in table.schema):
        return None
    if table.num_rows and pa.compute.min(table["step"]).as_py() < 0:
        return None
    used = [name for name in table.column_names if name in NOT_METRICS or table[name].null_count < table.num_rows]
    return table.select(used)


def _merged(table: pa.Table, counts: npt.NDArray[np.int64]) -> tuple[pa.Table, npt.NDArray[np.int64], list[str]]:
    """Brings rows of one step of one run together, the later written value wins, and orders them by step.

    Args:
        table: The rows of runs, in the order of their lines.
        counts: Rows of each run.

    Returns:
        The rows, their number for each run, and the names of the metrics of each, a JSON list.
    """
    run, step = np.repeat(np.arange(len(counts)), counts), table["step"].to_numpy()
    if ((np.diff(step) < 0) & (np.diff(run) == 0)).any():
        order = np.lexsort((step, run))  # stable: the later of two rows of a step stays the later
        table, run, step = table.take(order), run[order], step[order]
    first = np.ones(len(step), dtype=bool)
    first[1:] = (np.diff(step) != 0) | (np.diff(run) != 0)
    row = np.cumsum(first) - 1
    columns = {"step": pa.array(step[first])}
    names = [name for name in table.column_names if name not in NOT_METRICS]
    has_any = np.zeros((len(counts), len(names)), dtype=bool)
    for name in ("time", *names):
        has = table[name].is_valid().to_numpy()
        values, missing = np.zeros(row[-1] + 1), np.ones(row[-1] + 1, dtype=bool)
        values[row[has]] = table[name].drop_null().cast(pa.float64(), safe=False).to_numpy()  # of equal rows the last
        missing[row[has]] = False
        columns[name] = pa.array(values, mask=missing)
        if name != "time":
            has_any[run[has], names.index(name)] = True
    return pa.table(columns), np.bincount(run[first], minlength=len(counts)), _lists_of(names, has_any)


def _lists_of(names: Sequence[str], has: npt.NDArray[np.bool_]) -> list[str]:
    """Returns the names that each row has as a JSON list."""
    texts: dict[bytes, str] = {}
    for own in has:
        if (key := own.tobytes()) not in texts:
            texts[key] = json.dumps([name for name, is_there in zip(names, own, strict=True) if is_there])
    return [texts[own.tobytes()] for own in has]


def _line_by_line(folder: str) -> Entries:
    """Returns the rows of one run, whatever its file holds."""
    problems = Problems()
    merged: dict[int, dict[str, Any]] = {}
    for row in read_rows(RunPaths(Path(folder)).metrics, problems):
        merged.setdefault(row["step"], {}).update(row)
    return curve_of(folder, merged, problems.found)


def curve_of(folder: str, merged: Mapping[int, Mapping[str, Any]], problems: list[str]) -> Entries:
    """Returns the rows of one run.

    Args:
        folder: Its directory.
        merged: Step to what was logged then: metrics, and `time` in seconds since 1970.
        problems: What is wrong with its files.
    """
    rows = [merged[step] for step in sorted(merged)]
    names = {name: plain_text(name) for name in dict.fromkeys(name for row in rows for name in row) if name != "step"}
    columns = {shown: pa.array([number(row.get(name)) for row in rows], pa.float64()) for name, shown in names.items()}
    columns.setdefault("time", pa.nulls(len(rows), pa.float64()))
    data = pa.table({"step": pa.array(sorted(merged), pa.int64()), **columns})
    metrics = json.dumps([name for name in columns if name not in NOT_METRICS])
    return Entries([folder], [None if problems else b""], np.array([len(rows)]), [metrics], [problems], data)


def _batches(folders: Sequence[str]) -> Iterator[list[tuple[str, bytes | None]]]:
    """Yields runs with their files, some together; None where a file is not fit for the quick way."""
    batch: list[tuple[str, bytes | None]] = []
    size = 0
    for folder in folders:
        data = None
        with contextlib.suppress(OSError):
            data = Path(f"{folder}/metrics.jsonl").read_bytes()
        batch.append((folder, data if data and _is_plain(data) else None))
        size += len(data or b"")
        if size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _quick_entries(batch: Sequence[tuple[str, bytes]]) -> list[Entries]:
    """Returns the rows of runs with plain files; those that make no numbers for pyarrow are read line by line."""
    table = _quick([data for _, data in batch]) if batch else None
    if table is None:
        return [_line_by_line(folder) for folder, _ in batch]
    data, counts, names = _merged(table, np.array([data.count(b"\n") for _, data in batch]))
    nothing: list[list[str]] = [[] for _ in batch]
    return [Entries([folder for folder, _ in batch], [b""] * len(batch), counts, names, nothing, data)]


def read_curves(folders: Sequence[str]) -> Entries:
    """Reads the metrics of runs.

    Returns:
        The rows: `step`, `time` in seconds since 1970, and the metrics, a null where one has no value.
    """
    parts = [] if folders else [curve_of("", {}, []).take([])]
    for batch in _batches(folders):
        parts += _quick_entries([(folder, data) for folder, data in batch if data is not None])
        parts += [_line_by_line(folder) for folder, data in batch if data is None]
    return joined(parts, folders)


def _times(seconds: npt.NDArray[np.float64]) -> pd.Series:
    """Returns seconds since 1970 as times to the microsecond; what is none, or not within 292 years, is missing."""
    known = np.abs(seconds) < 9.2e9  # False for NaN
    micros = np.rint(np.where(known, seconds, 0) * 1e6).astype("int64").astype("datetime64[us]")
    micros[~known] = np.datetime64("NaT")
    return pd.Series(micros).dt.tz_localize("UTC")


def _repeated(values: Sequence[str | None], counts: npt.NDArray[np.int64]) -> pd.Categorical:
    texts = [value if value is None else plain_text(value) for value in values]
    codes, different = pd.factorize(pd.Index(texts, dtype="str"))
    return pd.Categorical.from_codes(np.repeat(codes, counts), different)


def metrics_frame(entries: Entries, ids: Sequence[str | None]) -> pd.DataFrame:
    """Returns the frame of metrics.

    Args:
        entries: The rows of runs that have some.
        ids: The run id of each.
    """
    data, counts = entries.data, entries.counts
    names = dict.fromkeys(name for text in dict.fromkeys(entries.names) for name in json.loads(text))
    columns: dict[str, Any] = {"run_id": _repeated(ids, counts), "path": _repeated(entries.paths, counts)}
    columns["step"] = data["step"].to_numpy()
    columns["time"] = _times(data["time"].to_numpy())
    columns |= {name: data[name].to_numpy() for name in in_order(names) if name not in columns}
    return pd.DataFrame(columns)
