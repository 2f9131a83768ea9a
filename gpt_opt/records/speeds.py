"""speeds.json of a sweep: how long its runs take, until when its slots last, and what follows for runs that are due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gpt_opt.records.io import read_json_object, to_json, write_text
from gpt_opt.records.sweep_dir import SweepRun

FRESH = 0.9
"""An allocation is new while more than this part of it is left: any run is started then, as it gets no more time."""


@dataclass(frozen=True)
class Speed:
    """How long runs of a workload take.

    Attributes:
        start_s: Seconds of an attempt in which it does not train: imports, loading, the end.
        step_s: Seconds of a step, evaluations and checkpoints shared out among the steps.
        runs: Runs that this was measured in.
        source: What kind of runs they are, for people.
    """

    start_s: float
    step_s: float
    runs: int
    source: str


@dataclass(frozen=True)
class Speeds:
    """What a driver knows.

    Attributes:
        workloads: How long runs take, by the names of workloads; of one that is missing nothing is known.
        begins: When the driver began, in seconds since 1970.
        ends: When its slots warn their runs of the end, in seconds since 1970; None where they have no end.
        runs_a_line: Runs in the newest task line.
        left: Indices of the runs that are left for the next allocation.
    """

    workloads: Mapping[str, Speed] = field(default_factory=dict)
    begins: float = 0.0
    ends: float | None = None
    runs_a_line: int = 1
    left: tuple[int, ...] = ()

    def run_s(self, run: SweepRun, step: int = 0) -> float | None:
        """Returns the seconds until a run that goes on from a step ends; None where that is not known."""
        return self._seconds(run, None if run.workload is None else run.workload.steps, step)

    def checkpoint_s(self, run: SweepRun, step: int = 0) -> float | None:
        """Returns the seconds until a run reaches its next checkpoint or its end; None where that is not known.

        The checkpoint that it writes when it is warned is not counted on.
        """
        if (work := run.workload) is None or work.save_every is None:
            return None
        saved = step + work.save_every - step % work.save_every
        return self._seconds(run, saved if work.steps is None else min(saved, work.steps), step)

    def _seconds(self, run: SweepRun, until: int | None, step: int) -> float | None:
        speed = None if run.workload is None else self.workloads.get(run.workload.name)
        return None if speed is None or until is None else speed.start_s + speed.step_s * max(0, until - step)

    def too_late_for(self, run: SweepRun, step: int, now_s: float) -> str:
        """Returns why a run is left for the next allocation; "" if it shall be started, as where nothing is known."""
        needed_s = self.checkpoint_s(run, step)
        if needed_s is None or self.ends is None:
            return ""
        left_s = self.ends - now_s
        if needed_s <= left_s or left_s > FRESH * (self.ends - self.begins):
            return ""
        return f"it takes {needed_s:.0f} s to its next checkpoint, and {max(0.0, left_s):.0f} s are left"


def write_speeds(file: Path, speeds: Speeds) -> None:
    """Replaces speeds.json."""
    write_text(file, to_json(asdict(speeds)))


def read_speeds(file: Path) -> Speeds:
    """Returns speeds.json; nothing is known where it is absent or not one of ours."""
    try:
        record = read_json_object(file)
        workloads = {name: Speed(**item) for name, item in record["workloads"].items()}
        numbers = (float(record["begins"]), None if record["ends"] is None else float(record["ends"]))
        return Speeds(workloads, *numbers, int(record["runs_a_line"]), tuple(record["left"]))
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return Speeds()
