"""The state of a run: what state.json says, and what is true when its writer is gone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from gpt_opt.errors import GptOptError
from gpt_opt.records.claim import read_claim
from gpt_opt.records.io import read_json_object, to_json, write_text
from gpt_opt.records.job_id import JobId
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.summary import read_summary


class State(StrEnum):
    """The states of a run; a run is in exactly one."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


_EARLIER = {"PREEMPTED": State.INTERRUPTED}
"""What states of earlier versions are now."""


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


def write_state(paths: RunPaths, state: RunState) -> None:
    """Replaces state.json in one step."""
    write_text(paths.state, to_json(asdict(state)))


def _parse(record: dict[str, Any]) -> RunState:
    known = {item.name for item in fields(RunState)}
    state = RunState(**{key: value for key, value in record.items() if key in known})
    return replace(state, state=State(_EARLIER.get(state.state, state.state)))


def read_state(paths: RunPaths) -> RunState:
    """Returns the state of a run as it is now.

    A RUNNING run whose owner is known dead, or silent for `claim.STALE_AFTER_S`, is reported as INTERRUPTED: nobody
    needs to be alive to say so. A directory without state.json is PENDING.

    Raises:
        StateUnreadable: If state.json is not one of ours.
    """
    try:
        state = _parse(read_json_object(paths.state))
        claim = read_claim(paths) if state.state is State.RUNNING else None
    except FileNotFoundError:
        return RunState(run_id=paths.root.name.rpartition("-")[2])
    except (OSError, ValueError, TypeError, RecursionError, GptOptError) as error:
        raise StateUnreadable(
            f"{paths.state} must be a state written by gpt-opt, but: {error}; the next start of the run writes it anew"
        ) from error
    if state.state is State.RUNNING and (claim is None or claim.is_over()):
        return replace(state, state=State.INTERRUPTED)
    return state


def is_done(paths: RunPaths) -> bool:
    """Returns whether the run is COMPLETED with its one committed result.

    Raises:
        StateUnreadable: If state.json or summary.json is not one of ours.
    """
    return has_result(paths) and read_state(paths).state is State.COMPLETED


def has_result(paths: RunPaths) -> bool:
    """Returns whether a run has a summary.

    Raises:
        StateUnreadable: If summary.json is not one of ours.
    """
    if not paths.summary.exists():
        return False
    try:
        read_summary(paths)
    except (OSError, ValueError) as error:
        raise StateUnreadable(
            f"{paths.summary} must be a summary written by gpt-opt, but: {error}; rerun=true puts it aside"
        ) from error
    return True
