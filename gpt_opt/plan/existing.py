"""What is on disk already of a run: how far it is, and what starting it would mean."""

from __future__ import annotations

from enum import StrEnum

from gpt_opt.records.run_dir import RunPaths, saved_step
from gpt_opt.records.state import State, read_run


class Status(StrEnum):
    """What starting a run would mean."""

    NEW = "new"
    RESUME = "resume"
    FAILED = "failed"
    RUNNING = "running"
    DONE = "done"


_MEANS = {State.COMPLETED: Status.DONE, State.RUNNING: Status.RUNNING, State.FAILED: Status.FAILED}


def status_of(paths: RunPaths) -> tuple[Status, int]:
    """Returns what starting an existing run would mean, and its steps done.

    A directory whose records cannot be read counts as failed, never as done.
    """
    record = read_run(paths)
    status = _MEANS.get(record.state, Status.FAILED if record.problem else None)
    if status is not None:
        return status, record.file.step
    step = saved_step(paths)  # PENDING or INTERRUPTED
    return (Status.NEW, 0) if step is None else (Status.RESUME, step)
