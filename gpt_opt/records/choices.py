"""choices.jsonl of a sweep with stages: which run of several the next stage starts from, as it was decided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

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


class StagedRun(Protocol):
    """A line of a plan, be it submitted or not: what stages look at."""

    @property
    def index(self) -> int:
        """Its position in the plan, from 0."""

    @property
    def run_id(self) -> str:
        """Hash of its config."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """Hydra override strings that give its config."""

    @property
    def stage(self) -> str:
        """Name of its stage; "" in a sweep without stages."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def parent(self) -> int | None:
        """Index of the run that it starts from."""

    @property
    def choice(self) -> str:
        """Name of the choice that decides whether its parent is started from; "" for none."""


def active(runs: Iterable[StagedRun], chosen: Mapping[str, int]) -> set[int]:
    """Returns the indices of the runs of a sweep that will be made, or were: where one of several is chosen, only that.

    Args:
        runs: Of the plan, in order.
        chosen: Name of a choice to the index of the run that it chose. Of one that is missing, or chose a run which
            will not be made itself, the first stands for it.
    """
    found: set[int] = set()
    parents: dict[str, int] = {}
    for run in runs:
        if run.parent is not None and run.parent not in found:
            continue
        if run.choice and run.parent is not None:
            recorded = chosen.get(run.choice, run.parent)
            if parents.setdefault(run.choice, recorded if recorded in found else run.parent) != run.parent:
                continue
        found.add(run.index)
    return found


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
