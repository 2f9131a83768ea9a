"""metrics.jsonl and samples.jsonl of a run: one JSON object a line, each with the optimizer step it belongs to.

One process writes them, that of the claim: rows are synced with each checkpoint, and a resume drops what came after its
checkpoint. In metrics.jsonl a row has `step`, `time` (seconds since 1970) and metrics by flat name; one that is no
number (NaN, infinity) is null. Several rows may have one step: training and evaluation each write their own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from gpt_opt.errors import named_errors
from gpt_opt.records.io import JsonLines, append_records, parse_line, read_lines, sync, unfenced, write_text

T = TypeVar("T")

NOT_METRICS = frozenset({"step", "time", "total_steps"})
"""Keys of a row of metrics.jsonl that are no metrics; the last is of apps, which say so how far they have to go."""


def own_names(metrics: Mapping[str, T]) -> dict[str, T]:
    """Returns metrics of others by names that are free in a row: `logged_time` of `time`."""
    return {f"logged_{name}" if name in NOT_METRICS else name: value for name, value in metrics.items()}


_NUMBER_TYPES = frozenset({int, float, type(None)})
STEP_LIMIT = 2**63
"""What is not below is no step."""

_TAIL_BYTES = 1 << 16


class StepLog:
    """One such file, as its writer has it.

    Args:
        path: The file; made with the first row.
        fence: As of `gpt_opt.records.io.append_records`; whoever takes a run over begins with `keep_until`.
    """

    def __init__(self, path: Path, fence: Callable[[], None] = unfenced) -> None:
        self._path, self._fence = path, fence

    def write(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of a step."""
        self.extend({"step": step, **row} for row in rows)

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows that have their steps."""
        append_records(self._path, rows, durable=False, fence=self._fence)

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces all rows in one step."""
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows), self._fence)

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
        self.replace(kept)
        last = {name: value for row in kept for name, value in row.items()}
        return {name: value for name, value in last.items() if name not in NOT_METRICS}


class MetricsLog(StepLog):
    """metrics.jsonl."""

    def append(self, step: int, values: Mapping[str, float], total_steps: int | None = None) -> None:
        """Writes one row, as `metrics_record` makes it."""
        self.write(step, [metrics_record(step, time.time(), values, total_steps)])

    def continue_after(self) -> int:
        """Prepares the file for a further writer: ends a line that a killed one left torn.

        Returns:
            The step after that of the last row, 0 where there is none.
        """
        try:
            lines, _ = read_tail(self._path, _TAIL_BYTES)
        except FileNotFoundError:
            return 0
        if lines[-1]:
            with named_errors(self._path), self._path.open("ab") as stream:
                stream.write(b"\n")
        for line in reversed(lines):
            with suppress(ValueError):  # empty, torn, cut off, or no row
                return int(_row(parse_line(line))["step"]) + 1
        return 0


def metrics_record(
    step: int, time_s: float | None, values: Mapping[str, float], total_steps: int | None = None
) -> dict[str, Any]:
    """Returns a row of metrics.jsonl; a value that is no number in JSON (NaN, infinity) is null there.

    Args:
        step: Optimizer steps so far.
        time_s: Seconds since 1970; None where it is not known.
        values: The metrics.
        total_steps: Optimizer steps of the whole run; None where it is not known.
    """
    row = {name: value if math.isfinite(value) else None for name, value in values.items()}
    times = {} if time_s is None else {"time": round(time_s, 3)}
    return {"step": step, **times, **({} if total_steps is None else {"total_steps": total_steps}), **row}


def read_metrics(path: Path) -> JsonLines[dict[str, Any]]:
    """Reads every row of a metrics.jsonl: flat objects of numbers, each with a `step`; an absent file has none.

    Raises:
        OSError: If it cannot be read.
    """
    return read_lines(path, _metrics_row)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    step = record.get("step")
    if type(step) is not int or not 0 <= step < STEP_LIMIT:
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
