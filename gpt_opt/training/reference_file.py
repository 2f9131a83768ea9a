"""Numbers that several processes compute together and keep for others: one file, in parts.

Each part has its SHA-256 behind it, so that one which is absent, torn, or of a writer that was killed is known for what
it is, and only that one is made anew. A process computes a part under a lock on its bytes, which ends with the process:
those that start at once share the parts among each other, and each is computed once.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt_opt.errors import named_errors

log = logging.getLogger(__name__)

Values = NDArray[np.float64]

_SHA256 = 32
_POLL_S = 0.2
_PATIENCE_S = 300.0
"""How long to wait while no part gets ready: a process that has a lock may be stopped, or its machine be gone."""


class PartsFile:
    """A file of float64 numbers in parts; what it holds of others is read again only when it is asked for.

    It is read, not mapped: a mapped file that another machine deletes or truncates would end the process.

    Args:
        file: Made where there is none. Its name tells what it is of: a part of another name is none of this file.
        sizes: Numbers of each part.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, file: Path, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self._name = file.name
        self._offsets = [0, *accumulate(8 * size + _SHA256 for size in sizes)]
        with named_errors(file):
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                # Through a link that another user of the folder has made, it would be written into any file.
                self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except PermissionError:  # of another user: what is in it serves all the same
                self._descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)

    def close(self) -> None:
        """Closes the file, which gives back every lock."""
        with suppress(OSError):  # a network file system tells only now that there is no room; such a part is torn
            os.close(self._descriptor)

    def read(self, part: int) -> Values | None:
        """Returns the numbers of a part; None where they are not there, not whole or not all finite."""
        start, end = self._offsets[part : part + 2]
        data = os.pread(self._descriptor, end - start, start)
        values = np.frombuffer(data[:-_SHA256], dtype="<f8") if len(data) == end - start else np.empty(0)
        whole = len(values) > 0 and data[-_SHA256:] == self._checksum(part, data[:-_SHA256])
        return values if whole and np.isfinite(values).all() else None

    def write(self, part: int, values: Values) -> None:
        """Puts the numbers of a part into the file.

        Raises:
            OSError: If there is no room, or the file may only be read.
        """
        data = values.astype("<f8").tobytes()
        data, offset = data + self._checksum(part, data), self._offsets[part]
        if (written := os.pwrite(self._descriptor, data, offset)) < len(data):  # as much as there was room for
            os.pwrite(self._descriptor, data[written:], offset + written)  # raises what is wrong

    @contextmanager
    def claimed(self, part: int) -> Iterator[bool]:
        """Takes the lock on a part for the block, and says whether it was free.

        Raises:
            OSError: If the file system has no locks, or the file may only be read.
        """
        start, end = self._offsets[part : part + 2]
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, end - start, start)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, end - start, start)

    def _checksum(self, part: int, data: bytes) -> bytes:
        return hashlib.sha256(f"{self._name} {part} ".encode() + data).digest()


def fill(file: PartsFile, compute: Callable[[int], Values], stop: Callable[[], bool]) -> tuple[Values, int]:
    """Reads all parts, and computes those that are not there and that no other process computes.

    Args:
        file: Where they are kept.
        compute: Returns the numbers of a part. Not finite ones are returned, but not kept.
        stop: Whether to return early; asked before each part, and while others compute.

    Returns:
        All numbers, NaN for those that are not known; how many were computed here. They are not all known where `stop`
        said so, another process has been at one part for too long, or the file can be neither locked nor written.
    """
    values = np.full(sum(file.sizes), np.nan)
    slices = [slice(*pair) for pair in pairwise([0, *accumulate(file.sizes)])]
    computed, changed = 0, time.monotonic()
    try:
        missing = [part for part in range(len(slices)) if not _take(file.read(part), values[slices[part]])]
        while missing and time.monotonic() - changed < _PATIENCE_S:
            before = len(missing)
            for part in list(missing):
                if stop():
                    return values, computed
                with file.claimed(part) as is_mine:
                    if not is_mine:
                        continue
                    if not _take(file.read(part), values[slices[part]]):
                        values[slices[part]] = found = compute(part)
                        computed += len(found)
                        if np.isfinite(found).all():
                            file.write(part, found)
                missing.remove(part)
            if len(missing) < before:
                changed = time.monotonic()
            elif missing:
                time.sleep(_POLL_S)
    except OSError as error:
        log.warning("reference log-probabilities cannot be kept, and are computed in each step: %s", error)
    return values, computed


def _take(found: Values | None, target: Values) -> bool:
    if found is not None:
        target[:] = found
    return found is not None
