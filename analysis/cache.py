"""What was read of finished files, kept in `<outputs>/.gptopt-cache/`, so that the next load reads what has changed.

The cache is files of Parquet, each of some runs and never changed once it is there. A run is taken from one only while
each of its files still has the times (of content and of inode), size and inode of when it was read. Two versions of a
file could have all of these alike where they were written within one tick of the file system's clock; so a run is kept
only if its files had not changed for `MARGIN_S` before they were looked at, by that clock: a later change has a later
time then, and restoring the time of the content changes that of the inode. Files that are damaged, or made by
other code, are not used, and the runs read anew. Readers and writers need no lock: a file appears whole under a name of
its own, and one that disappears under a reader is one it does not use.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.entries import Entries, joined
from gpt_opt import records

log = logging.getLogger(__name__)

FOLDER: Final = ".gptopt-cache"

SOURCES: Final = (Path(__file__).parent, Path(str(records.__file__)).parent)
"""Folders of the code that reads runs and makes rows of them."""


def source_hash(folders: Iterable[Path]) -> str:
    """Returns a short hash of the modules of folders, by names and contents."""
    files = sorted(file for folder in folders for file in folder.glob("*.py"))
    lines = (f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


VERSION: Final = source_hash(SOURCES)
"""Of what is kept: rows that other code made may be others. Taken when this is imported, like the code itself."""

_FORGOTTEN_S = 7 * 86400.0
"""Age in seconds from which files of another version are removed; younger ones may be in use, by a colleague."""

MARGIN_S: Final = 3.0
"""Seconds that no file system's clock stands still; FAT's does for two."""

LEAST = 32
"""Fewer runs are read, not looked up or kept: that is as quick, and leaves no small files."""

_FILES = 8
"""More of a kind are written anew as one."""

_LEVELS = 4
"""Folders in which a cache is looked for: optimizer, data, model, outputs."""

_ROWS = 1 << 17
"""Rows that are read together, where only some runs are needed."""

_KEY = struct.Struct("qqqQ")
ABSENT: Final = _KEY.pack(0, 0, 0, 0)
"""The key of a file that is not there."""


def file_key(path: str) -> bytes:
    """Returns what tells a file from what it was: times of content and inode in ns, size in bytes, inode."""
    try:
        found = os.stat(path)
    except OSError:
        return ABSENT
    return _KEY.pack(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _newest(key: bytes) -> int:
    """Returns the last time, in ns, at which a file of the key changed."""
    return max((int(time_ns) for times in _KEY.iter_unpack(key) for time_ns in times[:2]), default=0)


def home_of(parent: str, root: str | None) -> str | None:
    """Returns the folder whose cache has the runs in a folder, None where there is to be none.

    Args:
        parent: Where run directories lie, a real path.
        root: The folder, at or above it, that was searched for runs, a real path: its own cache is used, and made,
            where none is nearer. None where it is not known: one that is there is used.
    """
    above = [Path(parent), *Path(parent).parents][:_LEVELS]
    return next((str(item) for item in above if os.path.isdir(f"{item}/{FOLDER}")), root)


class Cache:
    """What is kept of the runs below one folder.

    Args:
        home: The folder, absolute.
        kind: What is kept of them: `runs` or `metrics`.
        runs: The runs that matter now: path below `home` to directory.
    """

    def __init__(self, home: str, kind: str, runs: Mapping[str, str]) -> None:
        self._folder = Path(home, FOLDER)
        self._prefix = f"{kind}.v{VERSION}."
        self._by_name = {os.fsencode(rest): path for rest, path in runs.items()}
        self._runs = runs
        self._used: list[Path] = []
        self._kept = 0

    def read(self, keys: Mapping[str, bytes]) -> list[Entries]:
        """Returns what is known of runs that are as they were, and removes files that are damaged.

        Args:
            keys: Directory to what its files are now.
        """
        wanted = dict(keys)
        found = []
        for file in self._files():
            try:
                entries = self._read(file, wanted)
            except FileNotFoundError:
                continue
            except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    log.info("%s cannot be read: %s", file, error)
                else:
                    log.info("%s is damaged and is made anew: %s", file, error)
                    _remove(file)
                continue
            found.append(entries)
            for path in entries.paths:
                del wanted[path]
        return found

    def _files(self) -> list[Path]:
        """Returns the files of the kind, the newest first."""
        times = {}
        with contextlib.suppress(OSError):
            for file in self._folder.glob(f"{self._prefix}*.parquet"):
                with contextlib.suppress(OSError):  # another process has just tidied it away
                    times[file] = file.stat().st_mtime_ns
        return sorted(times, key=lambda file: times[file], reverse=True)

    def _read(self, file: Path, wanted: Mapping[str, bytes]) -> Entries:
        """Returns the runs of a file that are wanted and as they were."""
        if not file.stem.endswith(_footer_checksum(file)):
            raise ValueError("its footer is not the one that was written")
        with pq.ParquetFile(file, page_checksum_verification=True) as source:
            text = source.schema_arrow.metadata[b"gptopt"]
            index = pa.ipc.open_stream(base64.b64decode(text)).read_all()
            paths = [self._by_name.get(path, "") for path in index["path"].to_pylist()]
            pairs = zip(paths, index["key"].to_pylist(), strict=True)
            rows = [row for row, (path, key) in enumerate(pairs) if wanted.get(path) == key]
            found = _selected(source, index, rows, paths)
            self._used.append(file)
            self._kept += len(paths)
            return found

    def now(self) -> int | None:
        """Returns the time in ns by the clock of the file system; None where nothing can be written."""
        file = self._temporary()
        try:
            self._folder.mkdir(exist_ok=True)
            file.touch()
            return file.stat().st_mtime_ns
        except OSError as error:
            log.info("nothing is kept in %s: %s", self._folder, error)
            return None
        finally:
            _remove(file)

    def _temporary(self) -> Path:
        return self._folder / f".{self._prefix}{uuid.uuid4().hex}.tmp"

    def store(self, entries: Entries, now: int) -> bool:
        """Keeps runs whose files had settled.

        Args:
            entries: What was read of them.
            now: What `now()` said before their files were looked at.

        Returns:
            Whether they are kept; few are not.
        """
        limit = now - int(MARGIN_S * 1e9)
        rows = [row for row, key in enumerate(entries.keys) if key is not None and _newest(key) < limit]
        if len(rows) < LEAST:
            return False
        below = {path: rest for rest, path in self._runs.items()}
        kept = entries if len(rows) == len(entries.paths) else entries.take(rows)
        index = replace(kept, paths=[below[path] for path in kept.paths]).index().drop_columns("problems")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, index.schema) as writer:
            writer.write_table(index)
        data = kept.data.replace_schema_metadata({b"gptopt": base64.b64encode(sink.getvalue())})
        file = self._temporary()
        try:
            pq.write_table(data, file, **_OPTIONS, use_dictionary=_coded_columns(data))
            file.rename(self._folder / f"{self._prefix}{uuid.uuid4().hex}.{_footer_checksum(file)}.parquet")
        except OSError as error:  # a full disk, a folder that was removed
            log.info("nothing is kept in %s: %s", self._folder, error)
            return False
        finally:
            _remove(file)
        self._forget()
        return True

    def _forget(self) -> None:
        """Removes old files of other versions."""
        for file in self._folder.glob("*.parquet"):
            if f".v{VERSION}." not in file.name:
                _remove_older(file, _FORGOTTEN_S)

    def untidy(self, entries: Sequence[Entries]) -> bool:
        """Returns whether the files that `read` used are many, or most of what they keep is outdated.

        Args:
            entries: What `read` returned when all runs of the folder mattered.
        """
        return len(self._used) > _FILES or 2 * sum(len(item.paths) for item in entries) < self._kept

    def tidy(self, entries: Sequence[Entries], now: int) -> None:
        """Writes the files that `read` used anew as one.

        Args:
            entries: What `read` returned when all runs of the folder mattered.
            now: What `now()` said before.
        """
        paths = [path for item in entries for path in item.paths]
        if not paths or self.store(joined(entries, paths), now):
            for file in self._used:
                _remove(file)
        for file in self._folder.glob(".*.tmp"):
            _remove_older(file, 3600)  # its writer was killed


_OPTIONS: Mapping[str, Any] = {
    "compression": "none",
    "write_page_checksum": True,
    "write_statistics": False,
    "row_group_size": _ROWS,
}


def _coded_columns(table: pa.Table) -> list[str]:
    return [field.name for field in table.schema if pa.types.is_dictionary(field.type)]


def _footer_checksum(file: Path) -> str:
    """Returns the checksum of what is in a file of Parquet beside its pages, which have their own."""
    with file.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, os.SEEK_END)
        return f"{zlib.crc32(stream.read()):08x}"


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def _remove_older(file: Path, age_s: float) -> None:
    with contextlib.suppress(OSError):
        if file.stat().st_mtime < time.time() - age_s:
            file.unlink()


def _selected(source: pq.ParquetFile, index: pa.Table, rows: Sequence[int], paths: list[str]) -> Entries:
    """Reads some runs of a file, and of its groups of rows those that have them."""
    counts = index["count"].to_numpy()
    ends = np.cumsum(counts)
    if len(rows) == len(counts):
        return Entries.of(index, source.read(), paths)
    sizes = [source.metadata.row_group(number).num_rows for number in range(source.num_row_groups)]
    last = np.cumsum(sizes)
    starts, stops = (ends - counts)[list(rows)], ends[list(rows)]
    groups = [g for g, end in enumerate(last) if ((starts < end) & (stops > end - sizes[g])).any()]
    data = source.read_row_groups(groups)
    # Runs whose rows are not all in these groups are not wanted: what is left of them has no owner.
    kept = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=bool)
    for group in groups:
        kept[last[group] - sizes[group] : last[group]] = True
    before = np.concatenate([[0], np.cumsum(kept)])
    own = before[ends] - before[ends - counts]
    index = index.set_column(index.schema.get_field_index("count"), "count", pa.array(own, pa.int64()))
    return Entries.of(index, data, paths).take(rows)
