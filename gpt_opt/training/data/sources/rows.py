"""Rows with their sources, from a file, a folder, or a name on the hub.

Files are read directly: a text stays the text it is (loaders of tables guess types), a row keeps its line number, and
the runs of a sweep write no copy of the file. What a file is, and how it is compressed, its content says. Which files
of a folder are a split is the business of `datasets`, and so are folders that it saved and names on the hub.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from gpt_opt.config.checks.data import TRAIN
from gpt_opt.config.contents import (
    BOM,
    HEAD,
    compression,
    data_files,
    form,
    has_data_suffix,
    no_data,
    pointer,
    pointer_in,
)
from gpt_opt.errors import DataError, Problem, first_line
from gpt_opt.training.data.chat import Document
from gpt_opt.training.data.collect import BadRow, Row, Rows
from gpt_opt.training.data.sources.columns import TEXT

_KEY = "data.dataset.path"

log = logging.getLogger(__name__)


def read_rows(path: str, subset: str | None = None, split: str = TRAIN, subset_is_folder: bool = False) -> Rows:
    """Reads the rows of one split.

    Args:
        path: A file as `gpt_opt.config.contents.KNOWN` says, a folder of such files or that `datasets` saved, or a name
            on the hub.
        subset: Configuration of the data set; None is its only or default one.
        split: Name of the split; a file has only `TRAIN`.
        subset_is_folder: Whether the subset is a folder of data files within the data set.

    Raises:
        DataError: If there is no such data, or it cannot be read.
    """
    source = Path(path)
    if source.is_dir():
        return _folder(source, subset, split, subset_is_folder)
    if not (source.is_file() or source.is_symlink() or has_data_suffix(path)):
        return _table(path, subset, split, subset_is_folder)
    if split != TRAIN or subset is not None:
        problem = f"{path} is a file: it has no subsets and only the split {TRAIN!r}, but asked for {subset}/{split}"
        raise DataError([Problem("data.dataset.split", problem)])
    return file_rows(source)


def file_rows(path: Path) -> Rows:
    """Reads the rows of a file, whatever its form and compression.

    Raises:
        DataError: If it is no data file, or is cut off or damaged.
    """
    with _readable(path), ExitStack() as opened:
        if found := pointer(path):
            raise DataError([Problem(str(path), *found)])
        raw = opened.enter_context(path.open("rb"))
        stream = io.BufferedReader(cast("Any", _decompressed(raw)), buffer_size=1 << 16)
        head = stream.peek(HEAD)[:HEAD]
        if found := no_data(head, str(path)):
            raise DataError([Problem(str(path), *found)])
        yield from _READERS[cast("str", form(head, path.name))](path, stream)


def _decompressed(raw: BinaryIO) -> Any:
    kind = compression(raw.read(6))
    raw.seek(0)
    if kind == "zstd":
        import pyarrow

        return pyarrow.CompressedInputStream(raw, "zstd")
    openers: dict[str | None, Callable[[BinaryIO], Any]] = {
        "gzip": lambda file: gzip.GzipFile(fileobj=file),
        "bz2": bz2.BZ2File,
        "xz": lzma.LZMAFile,
    }
    return openers[kind](raw) if kind else raw


def _json_lines(path: Path, stream: io.BufferedReader) -> Rows:
    """Reads one JSON object a line; a blank line is none."""
    for number, line in enumerate(stream, start=1):
        if number == 1 and line.removeprefix(BOM).strip() == b"{":
            problem = "must hold one JSON object a line, or a list of them, but has an object over several lines"
            raise DataError([Problem(str(path), problem, "jq -c . FILE > NEW writes each object on a line of its own")])
        if line.strip():
            yield f"{path}:{number}", _json_object(line.removeprefix(BOM) if number == 1 else line)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what reading a file may raise into an error that names it."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError([_damaged(path, error)]) from error
    except OSError as error:
        damaged = error.errno is None  # what a decompressor raises; the system gives each of its errors a number
        unreadable = Problem(_KEY, f"must be a readable file, but: {error}")
        raise DataError([_damaged(path, error) if damaged else unreadable]) from error
    except (ValueError, csv.Error) as error:
        raise DataError([Problem(str(path), f"cannot be read: {error}")]) from error


def _damaged(path: Path, error: Exception) -> Problem:
    return Problem(str(path), f"is cut off or damaged: {error}", "download or write it again")


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


def _json(path: Path, stream: io.BufferedReader) -> Rows:
    """Reads a list of objects."""
    try:
        rows = json.loads(stream.read().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        with path.open("rb") as raw:  # a list a line: each is named
            yield from _json_lines(path, io.BufferedReader(_decompressed(raw)))
        return
    yield from ((f"{path}[{index}]", _object(row)) for index, row in enumerate(rows))


def _csv(path: Path, stream: io.BufferedReader) -> Rows:
    """Reads rows of texts; the first line names the columns. The source of a row is its last line."""
    csv.field_size_limit(sys.maxsize)
    names = stream.peek(HEAD)[:HEAD].partition(b"\n")[0]
    delimiter = max(",;\t", key=lambda sign: names.count(sign.encode()))
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True, delimiter=delimiter)
        for row in reader:
            fits = None not in row and None not in row.values()
            problem = f"must have the {len(reader.fieldnames or ())} cells of the first line, but has more or fewer"
            yield f"{path}:{reader.line_num}", row if fits else BadRow(problem)


def _text(path: Path, stream: io.BufferedReader) -> Rows:
    with io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
        yield str(path), {TEXT: Document(lines.read())}


def _parquet(path: Path, stream: io.BufferedReader) -> Rows:
    import pyarrow
    import pyarrow.parquet

    with path.open("rb") as raw:
        packed = compression(raw.read(6)) is not None
    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(stream.read()) if packed else path)
    yield from _numbered(str(path), (row for batch in file.iter_batches(1024) for row in batch.to_pylist()))


_READERS: dict[str, Callable[[Path, io.BufferedReader], Rows]] = {
    "jsonl": _json_lines,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
    "text": _text,
}


def _numbered(name: str, rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Yields rows with sources as Python counts, from 0."""
    yield from ((f"{name}[{index}]", row) for index, row in enumerate(rows))


def _folder(folder: Path, subset: str | None, split: str, subset_is_folder: bool) -> Rows:
    """Reads the files of a split of a folder one after the other, or what `datasets` saved there."""
    files = [] if _is_saved(folder) else _files_of_split(folder, subset, split, subset_is_folder)
    if not files:
        return _table(str(folder), subset, split, subset_is_folder)  # knows other formats, and what is wrong
    return chain.from_iterable(map(file_rows, files))


def _is_saved(folder: Path) -> bool:
    """Returns whether `datasets` saved a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _files_of_split(folder: Path, subset: str | None, split: str, subset_is_folder: bool) -> list[Path]:
    """Returns the files that `datasets` takes for a split, by its rules for names of files and its README.md.

    Where it knows no file by its suffix, those are the files that are not hidden, as the training split.
    """
    import datasets

    where = {"data_dir": subset} if subset_is_folder else {"name": subset}
    try:
        splits = datasets.load_dataset_builder(str(folder), **where).config.data_files or {}
    except (datasets.exceptions.DataFilesNotFoundError, datasets.data_files.EmptyDatasetError) as error:
        inside = folder / (subset or "") if subset_is_folder else folder
        found = sorted(file for file in inside.rglob("*") if _may_hold_rows(file, inside))
        if instead := pointer_in(folder, found):
            raise DataError([Problem(_KEY, f"{folder} {instead[0]}", instead[1])]) from error
        return found if split == TRAIN else []
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError([_not_loaded(str(folder), subset, split, error)]) from error
    taken = {Path(file) for names in splits.values() for file in names}
    named = [file.relative_to(folder) for file in data_files(folder) if _may_hold_rows(file, folder)]
    if not subset and (others := [str(name) for name in named if folder.resolve() / name not in taken]):
        shown = ", ".join(others[:5]) + (", ..." if others[5:] else "")
        log.warning("%s: in no split by their names, or of another kind, and so not read: %s", folder, shown)
    files = [Path(name) for name in splits.get(split, ())]
    if not all(has_data_suffix(file.name) for file in files):
        return []
    empty = [file for file in files if file.is_file() and not file.stat().st_size]
    for file in empty:
        log.warning("%s is empty, and so left out", file)
    return [file for file in files if file not in empty]


def _may_hold_rows(file: Path, folder: Path) -> bool:
    names = file.relative_to(folder).parts
    apart = any(name.startswith((".", "_")) for name in names) or file.stem.upper() in ("README", "LICENSE", "LICENCE")
    return not apart and (file.is_file() or file.is_symlink())


def _table(path: str, subset: str | None, split: str, subset_is_folder: bool) -> Rows:
    import datasets

    datasets.disable_progress_bars()
    try:
        if _is_saved(Path(path)):
            table = _from_disk(datasets.load_from_disk(path), subset, split)
        else:
            where = {"data_dir": subset} if subset_is_folder else {"name": subset}
            table = datasets.load_dataset(path, split=split, **where)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError([_not_loaded(path, subset, split, error)]) from error
    return _numbered(f"{path}[{split!r}]", table)


def _from_disk(saved: Any, subset: str | None, split: str) -> Any:
    splits = saved if isinstance(saved, dict) else {str(saved.split or TRAIN): saved}
    if subset is not None:
        raise ValueError(f"a folder saved by datasets has no subsets, but asked for {subset!r}")
    if split not in splits:
        raise ValueError(f"Unknown split {split!r}. Should be one of {list(splits)}.")
    return splits[split]


def _not_loaded(path: str, subset: str | None, split: str, error: Exception) -> Problem:
    import datasets

    asked = f"split {split!r}" + (f" of {subset!r}" if subset else "")
    if Path(path).is_dir():
        return Problem(_KEY, f"the folder {path} must hold a data set with {asked}, but: {first_line(error)}")
    offline = "the hub (switched off by HF_HUB_OFFLINE)" if datasets.config.HF_HUB_OFFLINE else "the hub"
    return Problem(
        _KEY,
        f"{path!r} with {asked} must be loadable, but is no folder or file in {Path.cwd()}, nor in the cache "
        f"{datasets.config.HF_DATASETS_CACHE}, nor found on {offline}: {first_line(error)}",
        f"load it once where there is a network, `datasets.load_dataset({path!r})`, and share that cache (HF_HOME); or "
        "set data.dataset.path to a folder or file of it",
    )
