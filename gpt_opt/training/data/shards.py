"""Token shards: their writer, and the rows of a training.

A training goes through the shards in the order of their names, each in whole batches: rows that follow each other in a
shard follow each other in a batch, so what a rank or a micro-batch gets follows from its place in the batch alone.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_opt.config.checks.pretraining import too_small
from gpt_opt.config.shards import HEADER_BYTES, HEADER_INTS, LARGEST_COUNT, LARGEST_TOKEN, MAGIC, VERSION, token_count
from gpt_opt.errors import DataError, Problem
from gpt_opt.records.io import write_bytes

Shard = tuple[str, NDArray[Any]]
"""What to call a shard, and its tokens, (n,) of any integer type."""


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
    write_bytes(file, header.tobytes() + tokens.astype("<u2", copy=False).tobytes())


def _wrong(file: Path, problem: str, fix: str) -> DataError:
    return DataError([Problem(str(file), problem, fix)])


def open_shard(file: Path) -> Shard:
    """Returns a shard of a file, memory-mapped.

    Raises:
        DataError: If it is not a whole shard.
    """
    empty: NDArray[Any] = np.empty(0, dtype="<u2")
    if not token_count(file):  # of which there is nothing to map
        return str(file), empty
    return str(file), np.memmap(file, dtype="<u2", mode="r", offset=HEADER_BYTES)


class ShardRows(Sequence[NDArray[np.int64]]):
    """Rows of tokens in order: of each shard as many as fill whole batches.

    Args:
        shards: In order.
        context_length: Tokens of a row that are predicted, T.
        rows_per_batch: Rows of a batch over all ranks; the rows of a shard that fill no batch are left out.
        vocabulary: Tokens of the tokenizer: ids are below it.

    Raises:
        DataError: If no shard fills a batch.
    """

    def __init__(self, shards: Sequence[Shard], context_length: int, rows_per_batch: int, vocabulary: int) -> None:
        self._shards, self._length, self._vocabulary = shards, context_length, vocabulary
        batch = context_length * rows_per_batch
        counts = [len(tokens) for _, tokens in shards]
        self._ends = list(accumulate(max(0, count - 1) // batch * rows_per_batch for count in counts))
        self._rows = self._ends[-1] if self._ends else 0
        if not self._rows:
            raise DataError([too_small("data.dataset", batch + 1, len(counts), max(counts, default=0))])

    def first(self, rows: int) -> ShardRows:
        """Returns the first so many rows of these."""
        few = copy.copy(self)
        few._rows = min(rows, self._rows)
        return few

    def __len__(self) -> int:
        """Returns the rows of one epoch."""
        return self._rows

    def where(self, index: int) -> tuple[int, int]:
        """Returns the shard of a row, from 0, and its first token there."""
        shard = bisect_right(self._ends, index)
        return shard, (index - (self._ends[shard - 1] if shard else 0)) * self._length

    def __getitem__(self, index: int) -> NDArray[np.int64]:  # type: ignore[override]
        """Returns the tokens of a row and the one after it, (T + 1,): inputs are the first T, targets the last T.

        Raises:
            DataError: If one is no token of the tokenizer.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, start = self.where(index)
        name, tokens = self._shards[shard]
        row = tokens[start : start + self._length + 1].astype(np.int64)
        if (largest := int(row.max())) >= self._vocabulary:
            place = start + int(row.argmax())
            problem = f"must have token ids below {self._vocabulary:,}, the tokens of the model's tokenizer, but token "
            fix = "set model.tokenizer_name_or_path to the tokenizer that the shards were made with"
            raise DataError([Problem(name, f"{problem}{place:,} is {largest:,}", fix)])
        return row
