"""metrics.jsonl and samples.jsonl of a run: one JSON object a line, each with the optimizer step it belongs to.

One process writes them, that of the claim: rows are synced with each checkpoint, and a resume drops what came after its
checkpoint. In metrics.jsonl a row has `step`, `time` (seconds since 1970) and metrics by flat name; one that is no
number (NaN, infinity) is null. Several rows may have one step: training and evaluation each write their own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.errors import named_errors
from gpt_opt.records.io import JsonLines, append_records, read_lines, sync, write_text

NOT_METRICS = frozenset({"step", "time"})
"""Keys of a row of metrics.jsonl that are no metrics."""

_NUMBER_TYPES = frozenset({int, float, type(None)})
_STEP_LIMIT = 2**63


class StepLog:
    """One such file, as its writer has it.

    Args:
        path: The file; made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of a step."""
        append_records(self._path, [{"step": step, **row} for row in rows], durable=False)

    def sync(self) -> None:
        """Makes every row so far survive a power failure."""
        if self._path.exists():
            with named_errors(self._path):
                sync(self._path)

    def keep_until(self, step: int) -> dict[str, Any]:
        """Drops every row after `step`, and lines that are no rows; returns the last value of each name that stays."""
        if not self._path.exists():
            return {}
        kept = [row for row in read_lines(self._path, _row).records if row["step"] <= step]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        last = {name: value for row in kept for name, value in row.items()}
        return {name: value for name, value in last.items() if name not in NOT_METRICS}


class MetricsLog(StepLog):
    """metrics.jsonl."""

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row; a value that is no number in JSON (NaN, infinity) becomes null."""
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.write(step, [{"time": round(time.time(), 3), **row}])


def read_metrics(path: Path) -> JsonLines[dict[str, Any]]:
    """Reads every row of a metrics.jsonl: flat objects of numbers, each with a `step`; an absent file has none.

    Raises:
        OSError: If it cannot be read.
    """
    return read_lines(path, _metrics_row)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    step = record.get("step")
    if type(step) is not int or not 0 <= step < _STEP_LIMIT:
        raise ValueError(f"step must be an integer from 0, but is {step!r:.60}")
    return record


def _metrics_row(record: dict[str, Any]) -> dict[str, Any]:
    if not _NUMBER_TYPES.issuperset(map(type, record.values())):
        refused = (f"{name}={value!r:.60}" for name, value in record.items() if type(value) not in _NUMBER_TYPES)
        raise ValueError(f"metrics are numbers, but it has {', '.join(refused)}")
    return _row(record)


def read_tail(path: Path, size: int) -> tuple[list[bytes], int]:
    """Returns the lines in the last `size` bytes of a file, the first one perhaps cut off, and the size of it all.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        length = stream.seek(0, 2)
        stream.seek(max(0, length - size))
        return stream.read().split(b"\n"), length
