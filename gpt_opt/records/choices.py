"""choices.jsonl of a sweep with stages: which run of several the next stage starts from, as it was decided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt_opt.records.io import append_records, now, number, read_lines
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.summary import read_summary


@dataclass(frozen=True)
class Choice:
    """One line.

    Attributes:
        name: Of the choice, `SweepRun.choice`.
        parent: Index of the chosen run.
        metric: What decided.
        value: Its value; None where the user's word decided, or the file does not say.
        time: ISO 8601 UTC.
    """

    name: str
    parent: int
    metric: str
    value: float | None
    time: str

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Choice:
        """Reads a line.

        Raises:
            KeyError: If a field is missing.
        """
        return cls(record["name"], int(record["parent"]), record["metric"], record["value"], record["time"])


def read_choices(file: Path) -> dict[str, Choice]:
    """Returns the last choice of every name; foreign and torn lines are left out."""
    return {item.name: item for item in read_lines(file, Choice.from_record).records}


def record_choice(file: Path, name: str, parent: int, metric: str, value: float) -> None:
    """Writes a choice down; it holds instead of earlier ones of the name."""
    append_records(file, [asdict(Choice(name, parent, metric, value, now()))])


def best_of(candidates: Iterable[tuple[int, RunPaths]], metric: Mapping[str, str]) -> tuple[int, float] | None:
    """Returns which complete run is the best one, with its value; of equal ones the first, None where none has one.

    Args:
        candidates: Complete runs, each with what to call it.
        metric: `name`, a metric of summary.json, and `goal`, minimize or maximize.
    """
    best: tuple[int, float] | None = None
    for index, paths in candidates:
        value = final_metric(paths, metric["name"])
        if value is None or not math.isfinite(value):
            continue
        if best is None or (value > best[1] if metric["goal"] == "maximize" else value < best[1]):
            best = (index, value)
    return best


def final_metric(paths: RunPaths, name: str) -> float | None:
    """Returns the value of a metric in the result of a run; None where it has no such number."""
    try:
        return number(read_summary(paths)["metrics"][name])
    except (OSError, ValueError, LookupError, TypeError):
        return None
