"""The one rule for: what state is a run of a sweep in, would a driver start it now, and if not, what keeps it.

Status, driver, submit, retry, cancel, the launcher and exit codes all ask here. What a run directory says by itself is
`gpt_opt.records.state.current_state`; here come the attempts, the requests to stop and what Slurm knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from gpt_opt.dispatch.reconcile import Ends, with_ends
from gpt_opt.plan.resources import from_record
from gpt_opt.records import stop_requests
from gpt_opt.records.attempts import History, read_history
from gpt_opt.records.run_dir import RunFolders, RunPaths
from gpt_opt.records.state import RunRecord, State, read_run
from gpt_opt.records.sweep_dir import Submission, Sweep, SweepRun

STALLED_AFTER_S = 60.0
"""Silence of a running run's owner, in seconds, after which the run is STALLED."""

_NO_ENDS: Ends = MappingProxyType({})


class BlockedBy(StrEnum):
    """What keeps a run that is not COMPLETED from being started."""

    LOCK = "locked by another process"
    RETRIES = "retries exhausted"
    CANCEL = "cancelled by the user"
    WAIT = "waiting for the run that it starts from"
    PARENT = "blocked by the run that it starts from"
    STALE = "made from what was replaced since"


@dataclass(frozen=True)
class Classification:
    """What a run of a sweep is.

    Attributes:
        state: Its state.
        cause: Key of `attempts.CAUSES`: why it is not COMPLETED; None where there is nothing to say.
        blocked_by: What keeps it from being started; None if it is due or COMPLETED.
    """

    state: State
    cause: str | None = None
    blocked_by: BlockedBy | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is COMPLETED."""
        return self.state is State.COMPLETED

    @property
    def is_due(self) -> bool:
        """Whether a driver would start it now."""
        return not self.is_done and self.blocked_by is None

    @property
    def is_running(self) -> bool:
        """Whether a process works on it, as far as is known."""
        return self.state in (State.RUNNING, State.STALLED)

    @property
    def is_waiting(self) -> bool:
        """Whether it will be started without the user: now, or when a process or the run before it has ended."""
        return not (self.is_done or self.is_running or self.needs_user)

    @property
    def is_locked(self) -> bool:
        """Whether a process that may be alive has it, be that one running, starting or ending."""
        return self.blocked_by is BlockedBy.LOCK

    @property
    def needs_retry(self) -> bool:
        """Whether nothing but `gptopt retry` starts it again."""
        return self.blocked_by in (BlockedBy.RETRIES, BlockedBy.CANCEL, BlockedBy.STALE)

    @property
    def needs_user(self) -> bool:
        """Whether nothing happens to it before the user does something: retry it, or the run that it starts from."""
        return self.needs_retry or self.blocked_by is BlockedBy.PARENT


def classify(
    record: RunRecord, history: History, is_cancelled: bool, mem_gb: float | None, ends: Ends = _NO_ENDS
) -> Classification:
    """Classifies one run of a sweep.

    Args:
        record: What its directory says.
        history: Its attempts in the sweep.
        is_cancelled: Whether the user asked for its end and did not take that back.
        mem_gb: Memory that an attempt would get now; None if the sweep does not say.
        ends: What Slurm knows of the jobs of lost attempts.
    """
    if record.state is State.COMPLETED:
        return Classification(State.COMPLETED)
    if record.state is State.RUNNING:
        silent = (record.silent_s or 0.0) > STALLED_AFTER_S
        return Classification(State.STALLED if silent else State.RUNNING, None, BlockedBy.LOCK)
    known = with_ends(history, ends)
    exhausted = known.exhausted(mem_gb)
    if is_cancelled or exhausted == "cancelled":
        return Classification(State.CANCELLED, "cancelled", BlockedBy.CANCEL)
    if exhausted is not None:
        return Classification(State.FAILED, exhausted, BlockedBy.RETRIES)
    cause = known.last.cause if known.last is not None and known.last.cause != "completed" else None
    if record.state is State.FAILED:
        cause = cause or "exception"
    return Classification(record.state, cause, BlockedBy.LOCK if record.is_owned else None)


class RunClassifier:
    """Classifies runs of one sweep under the requests and resources of now."""

    def __init__(self, sweep: Sweep, submission: Submission) -> None:
        self._sweep = sweep
        self._memory = [from_record(shape.resources).mem_gb for shape in submission.shapes]
        self._cancelled = stop_requests.read(sweep.control).cancelled
        self._folders = RunFolders()

    def paths(self, run: SweepRun) -> RunPaths:
        """Returns the files of a run."""
        return run.paths(self._folders)

    def classify(self, run: SweepRun, record: RunRecord, history: History, ends: Ends = _NO_ENDS) -> Classification:
        """Returns what `classify` says of a run whose files have been read."""
        return classify(record, history, run.run_id in self._cancelled, self._memory[run.shape], ends)

    def read(self, run: SweepRun) -> Classification:
        """Reads the files of a run and classifies it, without asking Slurm."""
        return self.classify(run, read_run(self.paths(run)), read_history(self._sweep.attempts(run)))


@dataclass(frozen=True)
class ClassifiedRuns:
    """The runs of a sweep, in the order of the plan, each with what it is."""

    items: Mapping[SweepRun, Classification]

    def where(self, holds: Callable[[Classification], bool]) -> tuple[SweepRun, ...]:
        """Returns the runs for which something holds."""
        return tuple(run for run, item in self.items.items() if holds(item))

    def counts(self, locked: str) -> str:
        """Returns how many runs are what, as text, `locked` for those that another process has; empty without runs."""
        numbers = {
            "done": self.done,
            "to run": self.due,
            locked: self.locked,
            "waiting for others": self.waiting_for_others,
            "need a retry": self.needs_retry,
            "blocked": self.blocked,
        }
        return ", ".join(f"{len(found)} {name}" for name, found in numbers.items() if found)

    @property
    def due(self) -> tuple[SweepRun, ...]:
        """Runs that a driver would start now."""
        return self.where(lambda item: item.is_due)

    @property
    def locked(self) -> tuple[SweepRun, ...]:
        """Runs that another process has, running ones above all."""
        return self.where(lambda item: item.is_locked)

    @property
    def waiting_for_others(self) -> tuple[SweepRun, ...]:
        """Runs that will be due when those that they start from are COMPLETED."""
        return self.where(lambda item: item.blocked_by is BlockedBy.WAIT)

    @property
    def needs_retry(self) -> tuple[SweepRun, ...]:
        """Runs that only `gptopt retry` starts again."""
        return self.where(lambda item: item.needs_retry)

    @property
    def blocked(self) -> tuple[SweepRun, ...]:
        """Runs that start from others which end only when the user does something."""
        return self.where(lambda item: item.blocked_by is BlockedBy.PARENT)

    @property
    def done(self) -> tuple[SweepRun, ...]:
        """COMPLETED runs."""
        return self.where(lambda item: item.is_done)


_RETRIES = {
    BlockedBy.RETRIES: ("", "starts failed runs again"),
    BlockedBy.CANCEL: (" --state CANCELLED", "starts cancelled runs again"),
    BlockedBy.STALE: (" --state STALE", "makes runs anew whose start was replaced"),
}
"""Options of `gptopt retry` for what keeps a run from being started, and what it does."""


def retry_hints(sweep: str, items: Iterable[Classification]) -> list[str]:
    """Returns the commands that start those runs of a sweep again that need a retry."""
    found = {item.blocked_by for item in items}
    return [f"gptopt retry {sweep}{options} {does}" for by, (options, does) in _RETRIES.items() if by in found]
