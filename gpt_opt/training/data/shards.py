"""Token shards: files of 256 little-endian int32 (magic, version, number of tokens, zeros) and then uint16 tokens.

A training goes through the shards in the order of their names, each in whole batches: rows that follow each other in a
shard follow each other in a batch, so what a rank or a micro-batch gets follows from its place in the batch alone.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt_opt.errors import DataError, Problem

MAGIC, VERSION = 20250401, 1
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
LARGEST_TOKEN = 65_535
LARGEST_COUNT = 2**31 - 1


def write_shard(file: Path, tokens: NDArray[np.integer]) -> None:
    """Writes a shard, whole or not at all.

    Args:
        file: Where; its folder exists.
        tokens: (n,), integers from 0 to `LARGEST_TOKEN`.

    Raises:
        DataError: If the format cannot hold them.
    """
    if len(tokens) > LARGEST_COUNT:
        raise _wrong(file, f"must have at most {LARGEST_COUNT:,} tokens, but would have {len(tokens):,}", "split it")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) <= LARGEST_TOKEN:
        wrong = int(tokens.max()) if int(tokens.max()) > LARGEST_TOKEN else int(tokens.min())
        problem = f"must have token ids from 0 to {LARGEST_TOKEN:,}, but one is {wrong:,}"
        raise _wrong(file, problem, "take a tokenizer with a smaller vocabulary, such as gpt2")
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(header.tobytes())
            stream.write(tokens.astype("<u2").tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def token_count(file: Path) -> int:
    """Returns how many tokens a shard has, from its header.

    Raises:
        DataError: If it is not a whole shard of this format.
    """
    size = file.stat().st_size
    must = f"must be a shard of tokens (magic {MAGIC}, version {VERSION})"
    if size < HEADER_BYTES:
        raise _wrong(file, f"{must}, but has {size:,} bytes, less than a header", _ANEW)
    magic, version, count = (int(value) for value in np.fromfile(file, dtype="<i4", count=3))
    if (magic, version) != (MAGIC, VERSION):
        raise _wrong(file, f"{must}, but its magic is {magic} and its version {version}", _ANEW)
    if size != (expected := HEADER_BYTES + 2 * count):
        raise _wrong(file, f"{must}, but has {size:,} bytes, where its {count:,} tokens need {expected:,}", _ANEW)
    return count


_ANEW = "copy it again, or make it anew: gptopt prepare"


def _wrong(file: Path, problem: str, fix: str) -> DataError:
    return DataError([Problem(str(file), problem, fix)])


def find_shards(folder: Path, split: str) -> list[Path]:
    """Returns the shards `<split>_*.bin` of a folder in the order of their names.

    Raises:
        DataError: If there are none.
    """
    found = sorted(folder.glob(f"{split}_*.bin"))
    if not found:
        others = sorted({file.name.rpartition("_")[0] for file in folder.glob("*_*.bin")})
        held = f"has those of {', '.join(others)}" if others else "has none" if folder.is_dir() else "is not there"
        fix = f"make them: gptopt prepare --input FILES|hf:NAME --tokenizer gpt2 --out {folder}"
        raise _wrong(folder, f"must hold shards {split}_*.bin, but {held}", fix)
    return found


class ShardRows(Sequence[NDArray[np.int64]]):
    """Rows of tokens in order, memory-mapped: of each shard as many as fill whole batches.

    Args:
        files: Shards, in order.
        context_length: Tokens of a row that are predicted, T.
        rows_per_batch: Rows of a batch over all ranks; the rows of a shard that fill no batch are left out.

    Raises:
        DataError: If a file is no shard, or no shard fills a batch.
    """

    def __init__(self, files: Sequence[Path], context_length: int, rows_per_batch: int) -> None:
        self.files, self.context_length = list(files), context_length
        self.counts = [token_count(file) for file in files]
        batch = context_length * rows_per_batch
        rows = [max(0, count - 1) // batch * rows_per_batch for count in self.counts]
        self._ends = list(accumulate(rows))
        self._maps: dict[int, NDArray[np.uint16]] = {}
        if not self._ends or self._ends[-1] == 0:
            most = max(self.counts, default=0)
            must = f"must hold a batch of {rows_per_batch} rows of {context_length} tokens and one token more"
            problem = f"{must}, {batch + 1:,} tokens, but the largest of {len(self.counts)} has {most:,}"
            raise _wrong(self.files[0].parent, problem, "take smaller batches, or prepare more tokens")

    def __len__(self) -> int:
        """Returns the rows of one epoch."""
        return self._ends[-1]

    def where(self, index: int) -> tuple[int, int]:
        """Returns the shard of a row, from 0, and its first token there."""
        shard = bisect_right(self._ends, index)
        return shard, (index - (self._ends[shard - 1] if shard else 0)) * self.context_length

    def __getitem__(self, index: int) -> NDArray[np.int64]:  # type: ignore[override]
        """Returns the tokens of a row and the one after it, (T + 1,): inputs are the first T, targets the last T."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, start = self.where(index)
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self.files[shard], dtype="<u2", mode="r", offset=HEADER_BYTES)
        return self._maps[shard][start : start + self.context_length + 1].astype(np.int64)
