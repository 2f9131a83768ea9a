"""What is on disk already of a run: how far it is, and what starting it would mean."""

from __future__ import annotations

from enum import StrEnum

from gpt_opt.records.run_dir import RunPaths, saved_step
from gpt_opt.records.state import State, StateUnreadable, has_result, read_state


class Status(StrEnum):
    """What starting a run would mean."""

    NEW = "new"
    RESUME = "resume"
    FAILED = "failed"
    RUNNING = "running"
    DONE = "done"


def status_of(paths: RunPaths) -> tuple[Status, int]:
    """Returns the status of an existing run directory and its steps done.

    A directory whose state cannot be read counts as failed, never as done.
    """
    try:
        state = read_state(paths)
        if has_result(paths) and state.state is State.COMPLETED:
            return Status.DONE, state.step
    except StateUnreadable:
        return Status.FAILED, 0
    if state.state is State.RUNNING:
        return Status.RUNNING, state.step
    if state.state in (State.FAILED, State.COMPLETED):
        return Status.FAILED, state.step
    step = saved_step(paths)
    return (Status.NEW, 0) if step is None else (Status.RESUME, step)
