"""The metrics.jsonl of runs as rows of steps: by pyarrow's JSON reader over many files at once, or line by line.

The quick way takes only files of which both ways are known to make the same: plain lines of ASCII, each an object, with
a newline at the end of the last, no null (in Arrow a null is no value, but a null that is written again for a step
replaces the value of before). Where pyarrow refuses anything, or makes anything but numbers of it, each of these files
is read line by line, which is what says what is wrong with it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.json

from analysis.entries import Entries, joined
from analysis.files import Problems, read_rows
from analysis.run_table import TIME, plain_text
from gpt_opt.records.io import number
from gpt_opt.records.metrics import in_order
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.step_log import NOT_METRICS

METRIC_COLUMNS: Final = {"run_id": "category", "path": "category", "step": "int64", "time": TIME}
"""The columns that every frame of metrics has, with their types; the metrics follow."""

_BATCH_BYTES = 1 << 22
"""Files that are read together; all of it is in a processor's cache while it is parsed."""

_NEWLINE, _BRACE = b"\n{"


def _plain_lines(data: bytes) -> int:
    """Returns the lines of a file that is fit for the quick way, each of which begins an object; 0 of another."""
    if not data.startswith(b"{") or not data.endswith(b"\n") or b"null" in data or not data.isascii():
        return 0
    text = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(text == _NEWLINE)
    return len(ends) if (text[ends[:-1] + 1] == _BRACE).all() else 0


def _quick(files: Sequence[bytes], lines: int) -> pa.Table | None:
    """Returns the rows of all lines of plain files, None where pyarrow sees anything that needs a closer look."""
    source = pa.BufferReader(b"".join(files))
    try:
        block = pyarrow.json.ReadOptions(use_threads=False, block_size=source.size() + 1)
        table = pyarrow.json.read_json(source, block).combine_chunks()
    except pa.ArrowInvalid:
        return None
    types = {item.name: item.type for item in table.schema}
    if table.num_rows != lines or not pa.types.is_integer(types.get("step", pa.null())) or table["step"].null_count:
        return None
    if not all(pa.types.is_integer(item) or pa.types.is_floating(item) for item in types.values()):
        return None
    if pa.compute.min(table["step"]).as_py() < 0 or any(_has_infinity(column) for column in table.columns):
        return None
    if "time" not in types:
        table = table.append_column("time", pa.nulls(lines, pa.float64()))
    return table


def _has_infinity(column: pa.ChunkedArray) -> bool:
    """Returns whether a column has an infinite number, which pyarrow reads from `Inf` too."""
    return pa.types.is_floating(column.type) and bool(pa.compute.any(pa.compute.is_inf(column)).as_py())


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


@dataclass(frozen=True)
class _File:
    """One metrics.jsonl that is fit for the quick way."""

    folder: str
    data: bytes
    lines: int


def _files(folders: Sequence[str]) -> Iterator[_File]:
    """Yields the files that are fit for the quick way."""
    for folder in folders:
        with contextlib.suppress(OSError):
            data = Path(f"{folder}/metrics.jsonl").read_bytes()
            if lines := _plain_lines(data):
                yield _File(folder, data, lines)


def _batches(files: Iterable[_File]) -> Iterator[list[_File]]:
    """Yields files, some together."""
    batch: list[_File] = []
    for file in files:
        batch.append(file)
        if sum(len(item.data) for item in batch) > _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def read_curves(folders: Sequence[str]) -> Entries:
    """Reads the metrics of runs.

    Returns:
        The rows: `step`, `time` in seconds since 1970, and the metrics, a null where one has no value.
    """
    parts: list[Entries] = []
    for batch in _batches(_files(folders)):
        table = _quick([file.data for file in batch], sum(file.lines for file in batch))
        if table is not None:
            data, counts, names = _merged(table, np.array([file.lines for file in batch]))
            nothing: list[list[str]] = [[] for _ in batch]
            parts.append(Entries([item.folder for item in batch], [b""] * len(batch), counts, names, nothing, data))
    done = {folder for part in parts for folder in part.paths}
    parts += [_line_by_line(folder) for folder in folders if folder not in done]
    return joined(parts or [curve_of("", {}, []).take([])], folders)


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
    """Returns the frame of metrics of runs that have some; `ids` are those of the runs."""
    data, counts = entries.data, entries.counts
    names = dict.fromkeys(name for text in dict.fromkeys(entries.names) for name in json.loads(text))
    columns: dict[str, Any] = {"run_id": _repeated(ids, counts), "path": _repeated(entries.paths, counts)}
    columns["step"] = data["step"].to_numpy()
    columns["time"] = _times(data["time"].to_numpy())
    columns |= {name: data[name].to_numpy() for name in in_order(names) if name not in columns}
    return pd.DataFrame(columns)
