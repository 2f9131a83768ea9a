"""What was read of runs, before it is a frame: brought together from several sources, read in several processes."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_PROCESSES = 4
"""At most as many read at a time: more wait for one disk."""


@dataclass(frozen=True)
class Entries:
    """What was read of some runs.

    Attributes:
        paths: Their directories.
        keys: Of each what its files were when they were read, see `analysis.cache`; None where that may not be kept.
        counts: Rows of `data` of each.
        names: Names of the metrics that `data` has of each, a JSON list; empty where that says it itself.
        problems: What is wrong with the files of each, a line each.
        data: The rows of all of them, in their order.
    """

    paths: list[str]
    keys: list[bytes | None]
    counts: npt.NDArray[np.int64]
    names: list[str]
    problems: list[list[str]]
    data: pa.Table

    def index(self) -> pa.Table:
        """Returns everything but the rows as a table."""
        columns = {
            "path": pa.array(map(os.fsencode, self.paths), pa.binary()),
            "key": pa.array(self.keys, pa.binary()),
            "count": pa.array(self.counts, pa.int64()),
            "names": pa.array(self.names, pa.string()).dictionary_encode(),
            "problems": pa.array(self.problems, pa.list_(pa.string())),
        }
        return pa.table(columns)

    @classmethod
    def of(cls, index: pa.Table, data: pa.Table) -> Entries:
        """Returns what `index` described.

        Raises:
            ValueError: If it is not as long as the rows.
            KeyError: If a column is missing.
        """
        paths, keys, names, problems = (index[name].to_pylist() for name in ("path", "key", "names", "problems"))
        counts = index["count"].to_numpy()
        if counts.sum() != data.num_rows:
            raise ValueError(f"{data.num_rows} rows are there, but the runs have {counts.sum()}")
        return cls(list(map(os.fsdecode, paths)), keys, counts, names, problems, data)

    def take(self, rows: Sequence[int]) -> Entries:
        """Returns some of the runs, in that order; what stands together stays in one piece."""
        ends = np.cumsum(self.counts)
        pieces: list[list[int]] = []
        for row in rows:
            if pieces and pieces[-1][1] == row:
                pieces[-1][1] += 1
            else:
                pieces.append([row, row + 1])
        starts = ends - self.counts
        slices = [self.data.slice(starts[a], ends[b - 1] - starts[a]) for a, b in pieces]
        data = pa.concat_tables(slices) if slices else self.data.slice(0, 0)
        counts = self.counts[np.array(rows, dtype=np.int64)]
        return Entries(
            [self.paths[row] for row in rows],
            [self.keys[row] for row in rows],
            counts,
            [self.names[row] for row in rows],
            [self.problems[row] for row in rows],
            data,
        )


def joined(parts: Sequence[Entries], paths: Sequence[str]) -> Entries:
    """Returns runs from all parts in the order of `paths`; each must be in one of them."""
    parts = [part for part in parts if part.paths] or parts[:1]
    if len(parts) == 1 and parts[0].paths == list(paths):
        return parts[0]
    whole = Entries(
        [path for part in parts for path in part.paths],
        [key for part in parts for key in part.keys],
        np.concatenate([part.counts for part in parts]),
        [names for part in parts for names in part.names],
        [lines for part in parts for lines in part.problems],
        pa.concat_tables([part.data for part in parts], promote_options="default"),
    )
    places = {path: place for place, path in enumerate(whole.paths)}
    return whole.take([places[path] for path in paths])


Read = Callable[[Sequence[str]], Entries]


def _write(entries: Entries, stream: IO[bytes]) -> None:
    for table in (entries.index(), entries.data):
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
    stream.flush()


def _read(stream: IO[bytes]) -> Entries:
    """Reads what another process wrote, without a copy."""
    source = pa.BufferReader(pa.py_buffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
    index, data = pa.ipc.open_stream(source).read_all(), pa.ipc.open_stream(source).read_all()
    return Entries.of(index, data)


@contextlib.contextmanager
def _forked(read: Read, paths: Sequence[str], stream: IO[bytes]) -> Iterator[Callable[[], bool]]:
    """Reads in another process, which has ended after the block; yields what waits for it and says whether it could."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child takes no lock that a thread may have here
        child = os.fork()
    if child == 0:
        code = 1
        try:
            _write(read(paths), stream)
            code = 0
        finally:
            os._exit(code)  # whatever it was: the parent reads itself then
    waited: list[int] = []

    def wait() -> bool:
        if not waited:
            waited.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return waited[0] == 0

    try:
        yield wait
    finally:
        wait()


def processes(count: int, least: int) -> int:
    """Returns how many processes read `count` runs when one should have at least `least` of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _PROCESSES, count // least))


def read_all(read: Read, paths: Sequence[str], least: int) -> list[Entries]:
    """Reads runs, in several processes where they are many.

    Args:
        read: Reads some; called in forks of this process.
        paths: Their directories.
        least: Runs for which a process is worth while.
    """
    number = processes(len(paths), least)
    bounds = [len(paths) * part // number for part in range(number + 1)]
    parts = [paths[start:end] for start, end in pairwise(bounds)]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in parts[1:]]
        waits = [stack.enter_context(_forked(read, *item)) for item in zip(parts[1:], streams, strict=True)]
        found = [read(parts[0])]
        for wait, stream, part in zip(waits, streams, parts[1:], strict=True):
            found.append(_read(stream) if wait() else read(part))
    return found
