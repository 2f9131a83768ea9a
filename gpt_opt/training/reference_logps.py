"""Log-probabilities of the training's completions under its reference, computed once for all runs that need the same.

They depend on neither beta nor learning rate nor, where it takes most of the data, the seed of a run. What they do
depend on is in the name of their file: the weights of the reference and how it computes, and the token ids. Batches are
made of the sequences alone, so that the numbers are the same whoever computes them, and after a kill too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from torch import Tensor

from gpt_opt.config.cache import cache_folder
from gpt_opt.training.data.order import Batch, Collate, Row, TrainingOrder, pad
from gpt_opt.training.data.packing import pack
from gpt_opt.training.objectives import Objective
from gpt_opt.training.parts import Parts
from gpt_opt.training.reference_file import PartsFile, Values, fill

log = logging.getLogger(__name__)

_FORMAT = 1
"""Changes whenever the same name would stand for other numbers, or the layout of the file changes."""

_TOKENS = 8192
_ROWS = 256
"""Tokens, padding included, and sequences that one forward has at most; longer ones are alone with their prompt."""


def _digest(row: Row) -> bytes:
    """Returns 128 bits of a hash of the token ids, and of where the completion begins."""
    prompt, completion = row
    return hashlib.blake2b(array("q", [len(prompt), *prompt, *completion]).tobytes(), digest_size=16).digest()


def training_rows(objective: Objective, train: Sequence[Any], order: TrainingOrder, collator: Collate) -> Iterator[Row]:
    """Yields the sequences that the steps of a training need, some of them perhaps more than once.

    Where its items go into batches as they are, and at least half of them do, it yields those of all: then trainings
    with other seeds have the same, which one that leaves out the end of an epoch would not have.
    """
    if type(objective).arrange is not Objective.arrange:
        items: Iterable[Any] = (order[index] for index in range(len(order)))
    else:
        taken = sorted({order.position(index) for index in range(len(order))})
        items = train if 2 * len(taken) >= len(train) else (train[position] for position in taken)
    for item in items:
        yield from collator.rows(item)


class ReferenceLogps:
    """What the reference says of the sequences of a training.

    Args:
        rows: The sequences.
        identity: Of the reference and how it computes.
        folder: Where the file is to be.
        dtype: Of the numbers that batches get.
    """

    def __init__(self, rows: Iterable[Row], identity: str, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self._rows = {_digest(row): row for row in rows}
        self._batches = list(_batches(self._rows))
        self._digests = [digest for batch in self._batches for side in zip(*batch, strict=True) for digest in side]
        names = hashlib.sha256(f"{_FORMAT} {_TOKENS} {_ROWS} {identity} ".encode() + b"".join(self._digests))
        self.file = folder / f"{names.hexdigest()}.logps"
        self._values, self._dtype = dict[bytes, float](), dtype

    def fill(self, compute: Callable[[Batch], Tensor], stop: Callable[[], bool]) -> bool:
        """Reads the file, and computes with the other processes that need it what it lacks.

        Args:
            compute: Returns the log-probabilities of the completions of a batch on the CPU, (R,) float32 or wider.
            stop: Whether to leave the rest to the steps; asked at most once a second.

        Returns:
            Whether all are known.
        """

        def part(index: int) -> Values:
            items = [[self._rows[digest] for digest in item] for item in self._batches[index]]
            return cast("Values", compute({**pad(items), "packed": pack(items)}).cpu().double().numpy())

        started = time.perf_counter()
        try:
            file = PartsFile(self.file, [sum(map(len, batch)) for batch in self._batches])
        except OSError as error:
            log.warning("reference log-probabilities cannot be kept, and are computed in each step: %s", error)
            return False
        try:
            values, computed = fill(file, part, _seldom(stop))
        except torch.OutOfMemoryError as error:  # its batches have their own size, whatever that of the steps is
            log.warning("reference log-probabilities do not fit, and are computed in each step: %s", error)
            return False
        finally:
            file.close()
        known = np.isfinite(values)
        self._values = {
            key: value for key, value, is_known in zip(self._digests, values.tolist(), known, strict=True) if is_known
        }
        log.info(
            "reference log-probabilities of %s sequences: %s computed in %.1f s, %s from %s",
            *(f"{len(values):,}", f"{computed:,}", time.perf_counter() - started),
            *(f"{int(known.sum()) - computed:,}", self.file),
        )
        return bool(known.all())

    def collator(self, collator: Collate) -> Collate:
        """Returns a collator of the same batches with `reference_logps`, of those whose sequences are all known."""
        return _WithLogps(collator, self._values, self._dtype)


@dataclass(frozen=True)
class _WithLogps:
    collator: Collate
    values: Mapping[bytes, float]
    dtype: torch.dtype

    def rows(self, item: Any) -> list[Row]:
        """Returns what an item puts into a batch."""
        return self.collator.rows(item)

    def __call__(self, batch: Sequence[Any]) -> Batch:
        """Returns the batch, with the log-probability (R,) of the completion of each row where all are known."""
        sides = zip(*(self.collator.rows(item) for item in batch), strict=True)
        found = [self.values.get(_digest(row)) for side in sides for row in side]
        known = {} if None in found else {"reference_logps": torch.tensor(found, dtype=self.dtype)}
        return {**self.collator(batch), **known}


def _batches(rows: Mapping[bytes, Row]) -> Iterator[list[list[bytes]]]:
    """Yields sequences in batches, of items of two that have one prompt, then of one; the shortest first.

    They follow from what the sequences are, and from nothing else.
    """
    by_prompt: dict[tuple[int, ...], list[bytes]] = {}
    for digest in sorted(rows):
        by_prompt.setdefault(tuple(rows[digest][0]), []).append(digest)
    items = [same[start : start + 2] for same in by_prompt.values() for start in range(0, len(same), 2)]
    widths = {item[0]: max(sum(map(len, rows[digest])) for digest in item) for item in items}
    batch: list[list[bytes]] = []
    for item in sorted(items, key=lambda item: (-len(item), widths[item[0]], item)):
        count = (len(batch) + 1) * len(item)
        if batch and (len(batch[0]) != len(item) or count > _ROWS or count * widths[item[0]] > _TOKENS):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _seldom(ask: Callable[[], bool]) -> Callable[[], bool]:
    asked = time.monotonic()

    def asks_now() -> bool:
        nonlocal asked
        if time.monotonic() - asked < 1:
            return False
        asked = time.monotonic()
        return ask()

    return asks_now


def reference_logps_of(params: Mapping[str, Any], parts: Parts, order: TrainingOrder) -> ReferenceLogps | None:
    """Returns the log-probabilities that a training needs, yet to be filled in; None where each step computes them.

    Args:
        params: `training.training_params`.
        parts: Of the training.
        order: Of its items.
    """
    folder = cache_folder("reference")
    if parts.reference is None or parts.reference.fingerprint is None or folder is None:
        return None
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    precision = [params["mixed_precision"], torch.get_float32_matmul_precision(), params["compile"], str(device)]
    how = [parts.reference.fingerprint, *precision, torch.__version__, transformers.__version__]
    rows = training_rows(parts.objective, parts.items.train, order, parts.collator)
    return ReferenceLogps(rows, json.dumps(how), folder, torch.promote_types(parts.policy.dtype, torch.float32))
