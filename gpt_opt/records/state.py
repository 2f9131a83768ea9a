"""The state of a run: what state.json says, what is true when its writer has ended, and the one enum of states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from gpt_opt.errors import GptOptError, RequestError
from gpt_opt.records.claim import read_claim
from gpt_opt.records.io import read_json_object, to_json, unfenced, write_text
from gpt_opt.records.job_id import JobId
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.summary import read_summary


class State(StrEnum):
    """The states of a run; a run is in exactly one. A status lists them in this order.

    state.json never holds STALLED, which is RUNNING with a silent owner, nor what a sweep says of its runs: CANCELLED,
    BLOCKED (by the failure of the run that it starts from) and STALE (COMPLETED, but what it started from is not).
    """

    FAILED = "FAILED"
    STALE = "STALE"
    BLOCKED = "BLOCKED"
    STALLED = "STALLED"
    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    CANCELLED = "CANCELLED"
    PENDING = "PENDING"
    COMPLETED = "COMPLETED"


_EARLIER = {"PREEMPTED": State.INTERRUPTED}
"""What states of earlier versions are now."""


_NEVER_WRITTEN = (State.STALLED, State.CANCELLED, State.BLOCKED, State.STALE)


class StateUnreadable(GptOptError):
    """A state.json that gpt-opt did not write."""


@dataclass(frozen=True)
class RunState:
    """One state.json.

    Attributes:
        run_id: Hash of the config (see `gpt_opt.records.run_id`).
        state: Where the run is in its life.
        attempt: Number of the claim under which it was written, from 1; 0 before the first.
        host: Host of the last attempt.
        pid: Process of the last attempt.
        slurm: Slurm ids of the last attempt, or None outside Slurm.
        gpus: Devices of the last attempt.
        started: Start of the last attempt, ISO 8601 UTC.
        updated: Time of this record, ISO 8601 UTC.
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole run; None before it is known.
        error: type, message and traceback of the exception that ended the run, or None.
    """

    run_id: str
    state: State = State.PENDING
    attempt: int = 0
    host: str | None = None
    pid: int | None = None
    slurm: dict[str, str] | None = None
    gpus: list[str] = field(default_factory=list)
    started: str | None = None
    updated: str | None = None
    step: int = 0
    total_steps: int | None = None
    error: dict[str, str] | None = None

    @property
    def job(self) -> JobId | None:
        """The start of the Slurm job of the last attempt; None outside Slurm."""
        return JobId.of(self.slurm)


_FIELDS = frozenset(item.name for item in fields(RunState))


def write_state(paths: RunPaths, state: RunState, fence: Callable[[], None] = unfenced) -> None:
    """Replaces state.json in one step; `fence` as of `gpt_opt.records.io.write_text`."""
    write_text(paths.state, to_json(asdict(state)), fence)


def _parse(record: dict[str, Any]) -> RunState:
    known = {key: value for key, value in record.items() if key in _FIELDS}
    if (written := known.get("state", State.PENDING)) in _NEVER_WRITTEN:
        raise ValueError(f"a run never writes that it is {written}")
    state = RunState(**{**known, "state": State(_EARLIER.get(written, written))})
    counted = isinstance(state.step, int) and isinstance(state.total_steps, int | None)
    if counted and isinstance(state.started, str | None) and isinstance(state.error, dict | None):
        return state
    raise ValueError("its fields have other types")


def written_state(paths: RunPaths) -> RunState:
    """Returns state.json as it stands; PENDING where there is none.

    Raises:
        StateUnreadable: If it is not one of ours.
    """
    try:
        return _parse(read_json_object(paths.state))
    except FileNotFoundError:
        return _pending(paths)
    except (OSError, ValueError, TypeError) as error:
        raise StateUnreadable(
            f"{paths.state}: must be a state written by gpt-opt, but: {error}; the next start of the run writes it anew"
        ) from error


def _pending(paths: RunPaths) -> RunState:
    return RunState(run_id=paths.root.name.rpartition("-")[2])


def current_state(written: State | None, has_result: bool, is_owned: bool, has_begun: bool) -> State:
    """Returns the state of a run by what its directory holds: the one rule of done, running, failed and interrupted.

    Args:
        written: What state.json says; None where it cannot be read.
        has_result: Whether there is a result (see `has_result`).
        is_owned: Whether a process that may be alive has claimed the run.
        has_begun: Whether there is a checkpoint or a summary; matters where state.json cannot be read.
    """
    if written is State.COMPLETED:
        return State.COMPLETED if has_result else State.INTERRUPTED
    if written in (State.RUNNING, None) and is_owned:
        return State.RUNNING
    if written is None:
        return State.INTERRUPTED if has_begun else State.PENDING
    return State.INTERRUPTED if written is State.RUNNING else written


def read_state(paths: RunPaths) -> RunState:
    """Returns state.json, corrected where its writer has ended or its result is gone.

    A RUNNING run whose owner is known dead, or silent for `claim.STALE_AFTER_S`, is reported as INTERRUPTED: nobody
    needs to be alive to say so. So is a COMPLETED one without a summary. A directory without state.json is PENDING.

    Raises:
        StateUnreadable: If state.json is not one of ours, the claim of a RUNNING run or the summary of a COMPLETED one.
    """
    written = written_state(paths)
    try:
        claim = read_claim(paths) if written.state is State.RUNNING else None
    except RequestError as error:
        raise StateUnreadable(str(error.problems[0])) from error
    is_owned = claim is not None and not claim.is_over()
    has_summary = written.state is State.COMPLETED and has_result(paths)
    return replace(written, state=current_state(written.state, has_summary, is_owned, True))


@dataclass(frozen=True)
class RunRecord:
    """What the directory of a run says of it at one moment, whatever is in its files.

    Attributes:
        state: What the run is, by the rule of `current_state`.
        file: state.json as it stands; that of a PENDING run where it cannot be read.
        silent_s: Seconds since the last heartbeat of the process that has claimed the run; None where no process that
            may be alive has.
        problem: The file that cannot be read or contradicts the rest, and how; empty where none does.
        summary: summary.json of a COMPLETED run; empty of any other.
    """

    state: State
    file: RunState
    silent_s: float | None = None
    problem: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_owned(self) -> bool:
        """Whether a process that may be alive has claimed the run, so that nobody else can start it."""
        return self.silent_s is not None


def read_run(paths: RunPaths) -> RunRecord:
    """Reads what a run is now; files that are not ours become a `problem`, not an error."""
    file, written, claim, problem = _pending(paths), None, None, ""
    try:
        file = written_state(paths)
        written = file.state
        if written is State.COMPLETED:
            if (summary := _summary(paths)) is not None:
                return RunRecord(State.COMPLETED, file, summary=summary)
            problem = f"{paths.summary}: is not there, although {paths.state.name} says COMPLETED; the run starts again"
    except StateUnreadable as error:
        problem = str(error)
    try:
        claim = read_claim(paths)
    except RequestError as error:
        problem = problem or str(error.problems[0])
    has_begun = written is None and (paths.summary.exists() or any(paths.checkpoints.glob("checkpoint-*")))
    silent_s = claim.age_s if claim is not None and not claim.is_over() else None
    return RunRecord(current_state(written, False, silent_s is not None, has_begun), file, silent_s, problem)


def is_done(paths: RunPaths) -> bool:
    """Returns whether the run is COMPLETED with its one committed result.

    Raises:
        StateUnreadable: If state.json or summary.json is not one of ours.
    """
    return read_state(paths).state is State.COMPLETED


def has_result(paths: RunPaths) -> bool:
    """Returns whether a run has a summary.

    Raises:
        StateUnreadable: If summary.json is not one of ours.
    """
    return _summary(paths) is not None


def _summary(paths: RunPaths) -> dict[str, Any] | None:
    try:
        return read_summary(paths)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateUnreadable(
            f"{paths.summary}: must be a summary written by gpt-opt, but: {error}; rerun=true puts it aside"
        ) from error
