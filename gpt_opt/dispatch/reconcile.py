"""Lost attempts, whose slot could not note how they ended: what ended them, and writing that down."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpt_opt.dispatch import slurm
from gpt_opt.records.attempts import Attempt, History, note_end, read_history
from gpt_opt.records.run_dir import RunFolders
from gpt_opt.records.state import State, read_run
from gpt_opt.records.sweep_dir import Sweep

log = logging.getLogger(__name__)

Ends = Mapping[str, Sequence[slurm.JobState]]
"""What Slurm says of each job, a state for each of its starts."""


def cause_of_end(attempt: Attempt, ends: Ends, over: str | None = None) -> str | None:
    """Returns why an attempt ended, or None while it may go on.

    Args:
        attempt: The attempt.
        ends: What Slurm knows.
        over: A driver incarnation whose slots are known to have ended.
    """
    if attempt.cause is not None:
        return attempt.cause
    if (job := attempt.job) is not None and job.restart is not None:
        # A job that is COMPLETING has ended, but why is told a little later, by accounting.
        ended = [i for i in ends.get(job.job, ()) if not i.alive and i.state != "COMPLETING"]
        if job.restart < len(ended):
            return ended[job.restart].cause or "slot_lost"
    if over is not None and attempt.session == over:
        return "slot_lost"
    if attempt.owner.is_dead():
        return "slot_lost" if attempt.session else "killed"
    return None


def with_ends(history: History, ends: Ends) -> History:
    """Returns a history whose lost attempts have the causes that `reconcile` would note, where their end is certain."""
    return replace(history, attempts=tuple(replace(i, cause=cause_of_end(i, ends)) for i in history.attempts))


def reconcile(sweep: Sweep, over: str | None = None) -> None:
    """Notes the ends of lost attempts, with the cause that Slurm knows.

    Args:
        sweep: The sweep.
        over: The caller's own driver incarnation, when a round of it is over: what it lost then, it lost with a slot.
    """
    folders = RunFolders()
    lost = [(run, item) for run in sweep.runs for item in read_history(sweep.attempts(run)).lost()]
    states = {run.run_id: read_run(run.paths(folders)).state for run, _ in lost}
    lost = [(run, item) for run, item in lost if states[run.run_id] is not State.RUNNING]
    ends = _ends(sorted({item.job.job for _, item in lost if item.job is not None}))
    for run, item in lost:
        done = states[run.run_id] is State.COMPLETED
        cause = "completed" if done else cause_of_end(item, ends, over)
        if cause is not None:
            note_end(sweep.attempts(run), item.id, cause)


def _ends(jobs: Sequence[str]) -> Ends:
    if not jobs or not slurm.is_installed():
        return {}
    try:
        return slurm.states(jobs)
    except slurm.SlurmError as error:
        log.warning("Slurm does not say how jobs %s ended: %s", ", ".join(jobs), error)
        return {}
