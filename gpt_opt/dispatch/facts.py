"""The facts about a sweep at one moment, as `gpt_opt.dispatch.sweep_status` gathers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gpt_opt.dispatch.failure_groups import FailureGroup
from gpt_opt.dispatch.progress import Metric, Progress
from gpt_opt.records.sweep_dir import Submission, SweepRun

NO_PROGRESS = Progress()


class Shown(StrEnum):
    """What a run is to a user; a run is exactly one of these."""

    FAILED = "FAILED"
    STALLED = "STALLED"
    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    CANCELLED = "CANCELLED"
    PENDING = "PENDING"
    COMPLETED = "COMPLETED"


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        run: Its line of the plan.
        run_dir: Where it lies, or would lie.
        state: What it is.
        due: Whether a driver would start it now.
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole run; None before it is known.
        cause: Key of `attempts.CAUSES`: why it is not done; None where there is nothing to say.
        message: First line of its error; may be empty.
        silent_s: Seconds since the last heartbeat; None unless STALLED.
        progress: Latest and best metric, and speed.
        time_s: Seconds of the last attempt, of all attempts when COMPLETED; None before the first.
        starts: How often a slot of this sweep started it.
        node: Where it runs or ran last; may be empty.
        gpus: Devices of the last attempt.
        slurm_job: Slurm id of the last attempt, or of the job that is to start it; may be empty.
    """

    run: SweepRun
    run_dir: str
    state: Shown
    due: bool
    step: int = 0
    total_steps: int | None = None
    cause: str | None = None
    message: str = ""
    silent_s: float | None = None
    progress: Progress = NO_PROGRESS
    time_s: float | None = None
    starts: int = 0
    node: str = ""
    gpus: tuple[str, ...] = ()
    slurm_job: str = ""

    @property
    def is_running(self) -> bool:
        """Whether a process works on it, as far as is known."""
        return self.state in (Shown.RUNNING, Shown.STALLED)

    @property
    def is_left(self) -> bool:
        """Whether it is not done and nothing but the user's word starts it again."""
        return not (self.due or self.is_running or self.state is Shown.COMPLETED)


@dataclass(frozen=True)
class JobStatus:
    """One job of the sweep.

    Attributes:
        id: As in submission.json.
        state: Slurm's word for it, `RUNNING` for a local driver at work; empty when not known.
        reason: Why it waits; may be empty.
        node: Where it runs; may be empty.
        alive: Whether it may still start or continue; None when not known.
    """

    id: str
    state: str = ""
    reason: str = ""
    node: str = ""
    alive: bool | None = None


@dataclass(frozen=True)
class SweepStatus:
    """A sweep.

    Attributes:
        label: `<name>/<n>`.
        submission: What was submitted.
        metric: The metric that is shown.
        runs: Every run, in the order of the plan.
        jobs: Every job so far, oldest first.
        driven: Whether a driver holds the sweep.
        failures: FAILED runs, and INTERRUPTED ones of a known cause, by cause.
        notes: What could not be read or asked, a line each.
    """

    label: str
    submission: Submission
    metric: Metric
    runs: tuple[RunStatus, ...]
    jobs: tuple[JobStatus, ...]
    driven: bool
    failures: tuple[FailureGroup, ...]
    notes: tuple[str, ...]

    @property
    def all_done(self) -> bool:
        """Whether every run is COMPLETED."""
        return all(item.state is Shown.COMPLETED for item in self.runs)

    @property
    def counts(self) -> dict[Shown, int]:
        """Number of runs of every state."""
        found = Counter(item.state for item in self.runs)
        return {state: found[state] for state in Shown}

    @property
    def alive(self) -> bool | None:
        """Whether a driver or a job may still start runs; None when not known."""
        if self.driven or any(job.alive for job in self.jobs):
            return True
        return None if any(job.alive is None for job in self.jobs) else False

    @property
    def at_rest(self) -> bool:
        """Whether nothing runs and nothing is known, or may be assumed, to start anything."""
        return self.alive is False and not any(item.is_running for item in self.runs)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 something is left to the user, 3 still at work with nothing failed so far."""
        if self.all_done:
            return 0
        return 1 if self.at_rest or any(item.is_left for item in self.runs) else 3

    @property
    def fraction(self) -> float:
        """Part of the sweep that is done, by steps where they are known."""
        parts = (1.0 if item.state is Shown.COMPLETED else _fraction(item) for item in self.runs)
        return sum(parts) / max(1, len(self.runs))

    @property
    def eta_s(self) -> float | None:
        """Seconds until all due runs are done, at the speed and on the slots of now; None where nothing is observed."""
        return _eta_s(self.runs)


def _fraction(item: RunStatus) -> float:
    return min(1.0, item.step / item.total_steps) if item.total_steps else 0.0


def _eta_s(runs: Sequence[RunStatus]) -> float | None:
    running = [item for item in runs if item.state is Shown.RUNNING]
    completed = [item for item in runs if item.state is Shown.COMPLETED and item.time_s and item.step]
    speeds = [item.progress.steps_per_s for item in running if item.progress.steps_per_s]
    speeds = speeds or [item.step / item.time_s for item in completed if item.time_s]
    totals = [item.total_steps for item in runs if item.total_steps]
    if not running or not speeds or not totals:
        return None
    speed, usual = sum(speeds) / len(speeds), sum(totals) / len(totals)
    work = [item for item in runs if item.due or item.state in (Shown.RUNNING, Shown.STALLED)]
    remaining = sum(max(0.0, (item.total_steps or usual) - item.step) for item in work)
    own = ((item.progress.steps_per_s or speed, (item.total_steps or usual) - item.step) for item in running)
    return max(remaining / speed / len(running), *(left / rate for rate, left in own))
