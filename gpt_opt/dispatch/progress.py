"""How far runs are: the steps that are saved; from metrics.jsonl, read quickly, one metric and the speed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gpt_opt.records.io import parse_line
from gpt_opt.records.run_dir import RunFolders
from gpt_opt.records.state import State, read_run
from gpt_opt.records.step_log import read_tail
from gpt_opt.records.sweep_dir import Sweep

TAIL_BYTES = 32_768
"""How much of the end is read for the latest value and the speed: some hundred rows."""

BEST_LIMIT_BYTES = 8_000_000
"""Larger files are not read whole: they have no best value."""


@dataclass(frozen=True)
class Metric:
    """The metric that is shown.

    Attributes:
        name: As in metrics.jsonl.
        goal: `minimize` or `maximize`; None where nobody said that runs are compared by it.
    """

    name: str
    goal: str | None


@dataclass(frozen=True)
class Progress:
    """What metrics.jsonl says.

    Attributes:
        latest: Last value of the metric, NaN where it was no number; None without one.
        best: Best finite value; None without one, without a goal, or for a very large file.
        steps_per_s: Steps per second of this attempt, lately; None while it cannot be seen.
    """

    latest: float | None = None
    best: float | None = None
    steps_per_s: float | None = None


def _rows(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    """Yields the rows from the last to the first; torn and foreign lines are left out."""
    for line in reversed(lines):
        with suppress(ValueError):
            yield parse_line(line)


def _value(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name, math.inf)
    if value is None:
        return math.nan  # how metrics.jsonl writes what is no number
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _speed(rows: list[dict[str, Any]], since: float) -> float | None:
    marks = [(row["step"], row["time"]) for row in rows if {"step", "time"} <= row.keys() and row["time"] >= since]
    if len(marks) < 2:
        return None
    (last, end), (first, begin) = marks[0], marks[-1]
    return (last - first) / (end - begin) if last > first and end > begin else None


def read_progress(file: Path, metric: Metric, since: float | None) -> Progress:
    """Reads the end of a metrics.jsonl, and the whole file where a best value is asked for or the end has no value.

    Args:
        file: The metrics.jsonl; may be absent.
        metric: What to look for.
        since: Start of the attempt whose speed is wanted, seconds since the epoch; None for no speed.
    """
    key = json.dumps(metric.name).encode()
    try:
        lines, size = read_tail(file, TAIL_BYTES)
    except FileNotFoundError:
        return Progress()
    values = (_value(row, metric.name) for row in _rows(_with(key, lines)))
    latest, best = next((value for value in values if value is not None), None), None
    if (metric.goal is not None or latest is None) and size <= BEST_LIMIT_BYTES:
        latest, best = _whole(file, size, file.stat().st_mtime_ns, metric)
    return Progress(latest, best, None if since is None else _speed(list(_rows(lines)), since))


def final_progress(summary: Mapping[str, Any], metric: Metric) -> Progress | None:
    """Returns what the summary of a complete run says; None where that is not enough."""
    metrics = summary.get("metrics")
    if metric.goal is not None or not isinstance(metrics, dict):
        return None
    value = _value(metrics, metric.name)
    return None if value is None else Progress(value)


@lru_cache(maxsize=1 << 16)
def _whole(file: Path, size: int, mtime_ns: int, metric: Metric) -> tuple[float | None, float | None]:
    """Returns the latest and the best value; a live view reads a file that did not change once."""
    lines = _with(json.dumps(metric.name).encode(), file.read_bytes().split(b"\n"))
    known = [value for row in _rows(lines) if (value := _value(row, metric.name)) is not None]
    return (known[0] if known else None), _best(known, metric)


def _with(key: bytes, lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if key in line]


def _best(values: list[float], metric: Metric) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    if not finite or metric.goal is None:
        return None
    return max(finite) if metric.goal == "maximize" else min(finite)


def saved_steps(sweep: Sweep) -> int:
    """Returns the steps of all runs together that a restart would find done; one more for each that is COMPLETED."""
    folders, steps, program = RunFolders(), 0, sweep.submission().program
    for paths in (run.paths(folders) for run in sweep.runs):
        record = read_run(paths)
        counted = record.state in (State.COMPLETED, State.RUNNING)
        steps += record.file.step if counted else program.saved_step(paths) or 0  # a failed run may have come further
        steps += record.state is State.COMPLETED  # not every application counts steps
    return steps
