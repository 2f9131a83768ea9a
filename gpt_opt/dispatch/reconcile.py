"""Attempts that nobody saw end: what ended them, and writing it down."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from gpt_opt.dispatch import slurm
from gpt_opt.plan.existing import Status, status_of
from gpt_opt.records.attempts import Attempt, note_end, read_history
from gpt_opt.records.sweep_dir import Sweep

log = logging.getLogger(__name__)

Ends = Mapping[str, Sequence[slurm.JobState]]
"""What Slurm says of each job, a state for each of its starts."""


def cause_of_end(attempt: Attempt, ends: Ends, over: str | None = None) -> str | None:
    """Returns why an attempt ended, or None while it may go on.

    Args:
        attempt: The attempt.
        ends: What Slurm knows.
        over: A session whose slots are known to be gone.
    """
    if attempt.cause is not None:
        return attempt.cause
    if attempt.job is not None:
        # A job that is COMPLETING has ended, but why is told a little later, by accounting.
        ended = [i for i in ends.get(attempt.job.job, ()) if not i.alive and i.state != "COMPLETING"]
        if (restart := attempt.job.restart) is not None and restart < len(ended):
            return ended[restart].cause or "slot_lost"
    if over is not None and attempt.session == over:
        return "slot_lost"
    if attempt.owner.is_dead():
        return "slot_lost" if attempt.session else "killed"
    return None


def settle(sweep: Sweep, over: str | None = None) -> None:
    """Writes down the ends of attempts that were lost with their slots, with the cause that Slurm knows.

    Args:
        sweep: The sweep.
        over: The caller's own session, when a round of it is over: what it lost then, it lost with a slot.
    """
    lost = [(run, item) for run in sweep.runs for item in read_history(sweep.attempts(run)).lost()]
    lost = [(run, item) for run, item in lost if status_of(run.paths())[0] is not Status.RUNNING]
    ends = _ends(sorted({item.job.job for _, item in lost if item.job is not None}))
    for run, item in lost:
        done = status_of(run.paths())[0] is Status.DONE
        cause = "completed" if done else cause_of_end(item, ends, over)
        if cause is not None:
            note_end(sweep.attempts(run), item.id, cause)


def _ends(jobs: list[str]) -> Ends:
    if not jobs or not slurm.is_installed():
        return {}
    try:
        return slurm.states(jobs)
    except slurm.SlurmError as error:
        log.warning("Slurm does not say how jobs %s ended: %s", ", ".join(jobs), error)
        return {}
