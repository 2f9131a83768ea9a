"""Rows with their places, from a file, a folder, or a name on the hub.

Files are read directly: a text stays the text it is (loaders of tables guess types), a row keeps its line number, and
the runs of a sweep write no copy of the file. Folders and hub names are the business of `datasets`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt_opt.config.sources import TRAIN
from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.collect import BadRow, Row, Rows

_KEY = "data.dataset.path"


def read_rows(path: str, subset: str | None = None, split: str = TRAIN, subset_is_folder: bool = False) -> Rows:
    """Reads the rows of one split.

    Args:
        path: A file with one of the suffixes `gpt_opt.config.sources.DATA_SUFFIXES`, a folder that `datasets` saved
            or that holds the files of a data set, or a name on the hub.
        subset: Configuration of the data set; None is its only or default one.
        split: Name of the split; a file has only `TRAIN`.
        subset_is_folder: Whether the subset is a folder of data files within the data set.

    Raises:
        DataError: If there is no such data, or it cannot be read.
    """
    place = Path(path)
    if place.suffix in _READERS and not place.is_dir():
        if split != TRAIN or subset is not None:
            problem = (
                f"{path} is a file: it has no subsets and only the split {TRAIN!r}, but asked for {subset}/{split}"
            )
            raise DataError([Problem("data.dataset.split", problem)])
        return _READERS[place.suffix](place)
    return _table(path, subset, split, subset_is_folder)


def json_lines(path: Path) -> Rows:
    """Reads one JSON object a line; a blank line is none.

    Raises:
        DataError: If the file cannot be read.
    """
    with _readable(path), path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"{path}:{number}", _json_object(line)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what reading a file may raise into an error that names it."""
    try:
        yield
    except OSError as error:
        raise DataError([Problem(_KEY, f"must be a readable file, but: {error}")]) from error
    except (ValueError, csv.Error) as error:
        raise DataError([Problem(str(path), f"cannot be read: {error}")]) from error


def _json_object(line: bytes) -> Row | BadRow:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(f"must be UTF-8, but byte {error.start} is 0x{line[error.start]:02x}")
    except json.JSONDecodeError as error:
        return BadRow(f"must be a JSON object, but: {error.msg} at column {error.colno}")
    return _object(row)


def _object(row: Any) -> Row | BadRow:
    return row if isinstance(row, dict) else BadRow(f"must be a JSON object, but is a {type(row).__name__}")


def _json(path: Path) -> Rows:
    """Reads a list of objects, or one object a line: both are called .json."""
    with _readable(path), path.open("rb") as stream:
        start = next((line.lstrip()[:1] for line in stream if line.strip()), b"")
    if start != b"[":
        yield from json_lines(path)
        return
    with _readable(path):
        rows = json.loads(path.read_text(encoding="utf-8"))
    yield from ((f"{path}[{index}]", _object(row)) for index, row in enumerate(rows))


def _csv(path: Path) -> Rows:
    """Reads rows of texts; the first line names the columns. The place of a row is its last line."""
    csv.field_size_limit(sys.maxsize)
    with _readable(path), path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        for row in reader:
            fits = None not in row and None not in row.values()
            problem = f"must have the {len(reader.fieldnames or ())} cells of the first line, but has more or fewer"
            yield f"{path}:{reader.line_num}", row if fits else BadRow(problem)


def _parquet(path: Path) -> Rows:
    import pyarrow.parquet

    with _readable(path):
        file = pyarrow.parquet.ParquetFile(path)
        yield from _numbered(str(path), (row for batch in file.iter_batches(1024) for row in batch.to_pylist()))


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _numbered(name: str, rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Yields rows with places as Python counts, from 0."""
    yield from ((f"{name}[{index}]", row) for index, row in enumerate(rows))


def _table(path: str, subset: str | None, split: str, subset_is_folder: bool) -> Rows:
    import datasets

    datasets.disable_progress_bars()
    saved = [Path(path, name) for name in ("dataset_dict.json", "state.json")]
    try:
        if any(file.is_file() for file in saved):
            table = _from_disk(datasets.load_from_disk(path), path, subset, split)
        else:
            where = {"data_dir": subset} if subset_is_folder else {"name": subset}
            table = datasets.load_dataset(path, split=split, **where)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError([_not_loaded(path, subset, split, error)]) from error
    return _numbered(f"{path}[{split!r}]", table)


def _from_disk(saved: Any, path: str, subset: str | None, split: str) -> Any:
    splits = saved if isinstance(saved, dict) else {str(saved.split or TRAIN): saved}
    if subset is not None:
        raise ValueError(f"a folder saved by datasets has no subsets, but asked for {subset!r}")
    if split not in splits:
        raise ValueError(f"Unknown split {split!r}. Should be one of {list(splits)}.")
    return splits[split]


def _not_loaded(path: str, subset: str | None, split: str, error: Exception) -> Problem:
    import datasets

    first_line = str(error).strip().partition("\n")[0]
    asked = f"split {split!r}" + (f" of {subset!r}" if subset else "")
    if Path(path).is_dir():
        return Problem(_KEY, f"the folder {path} must hold a data set with {asked}, but: {first_line}")
    offline = "the hub (switched off by HF_HUB_OFFLINE)" if datasets.config.HF_HUB_OFFLINE else "the hub"
    return Problem(
        _KEY,
        f"{path!r} with {asked} must be loadable, but is no folder or file in {Path.cwd()}, nor in the cache "
        f"{datasets.config.HF_DATASETS_CACHE}, nor found on {offline}: {first_line}",
        f"load it once where there is a network, `datasets.load_dataset({path!r})`, and share that cache (HF_HOME); or "
        "set data.dataset.path to a folder or file of it",
    )
