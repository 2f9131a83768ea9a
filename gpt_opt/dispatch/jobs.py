"""The jobs of a sweep that wait or work, whatever backend made them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress

import psutil

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.base import BACKENDS
from gpt_opt.dispatch.backends.plain_names import plain
from gpt_opt.records.claim import read_claim
from gpt_opt.records.io import now, seconds_of
from gpt_opt.records.job_id import JobId
from gpt_opt.records.sweep_dir import Job, Sweep, SweepRun

log = logging.getLogger(__name__)

_RECORDED_S = 10.0
"""Within so many seconds of its start a job is recorded: another process of its number is older or younger."""


def living_jobs(sweep: Sweep, backend: str | None = None) -> list[Job]:
    """Returns the jobs of a sweep that wait or work.

    Those whose record was lost between sbatch and the disk are found by their comment. Of a backend that is
    in the table no more, Slurm is asked.

    Args:
        sweep: The sweep directory.
        backend: What it shall run on now, if not what submission.json says. A local driver need not wait for a Slurm
            that does not answer: should an earlier job still run, its runs are locked by it.

    Raises:
        SlurmError: If it may have jobs in Slurm, and Slurm does not answer.
    """
    submission, jobs = sweep.submission(), local_drivers(sweep)
    former, chosen = (BACKENDS.get(name) for name in (submission.backend, backend or submission.backend))
    if former is not None and not former.on_slurm and all(not JobId(job.id).is_slurm for job in submission.jobs):
        return jobs
    try:
        known = slurm.states([job.id for job in submission.jobs])
        alive = [job for job in submission.jobs if job.id in known and known[job.id][-1].alive and job not in jobs]
        jobs += [job for job in alive if not (known[job.id][-1].state == "RUNNING" and _has_ended(sweep, job))]
        recorded = {JobId(job.id).array for job in submission.jobs}
        for name, part in slurm.jobs_with_comment(str(plain(sweep).root)).items():
            if JobId(name).array not in recorded:
                shape = part.removeprefix("shape-")
                jobs.append(Job(name, now(), shape=int(shape) if shape.isdigit() else None))
    except slurm.SlurmError as error:
        if chosen is None or chosen.on_slurm:
            raise
        log.warning("%s: what its Slurm jobs do is not known: %s", sweep.label, error)
    return jobs


def local_drivers(sweep: Sweep) -> list[Job]:
    """Returns the drivers on this machine, outside of Slurm; each claims all the parts that it works through.

    Those that were started and have yet to claim one come first.
    """
    claims = [claim for part in sweep.parts() if (claim := read_claim(part.driver)) is not None]
    pids = [item.owner.pid for item in claims if item.job is None and not item.is_over()]
    have_claimed = {item.owner.pid for item in claims}
    starting = [job for job in sweep.submission().jobs[-1:] if _is_there(job, have_claimed)]
    return [*starting, *(Job(f"local-{pid}", now()) for pid in dict.fromkeys(pids))]


def _is_there(job: Job, others: Collection[int]) -> bool:
    """Returns whether the process of this machine that a job is lives, and is not one of `others`."""
    pid, submitted = JobId(job.id).pid, seconds_of(job.submitted)
    if pid is None or pid in others or submitted is None:
        return False
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        is_it = abs(process.create_time() - submitted) < _RECORDED_S
        return is_it and process.status() != psutil.STATUS_ZOMBIE
    return False


def _has_ended(sweep: Sweep, job: Job) -> bool:
    """Returns whether the driver that is a job has given the sweep back, although Slurm does not know its end yet."""
    claim = None if job.runs is not None else read_claim(sweep.part(job.shape or 0).driver)
    return claim is not None and claim.released and claim.job is not None and claim.job.job == job.id


def unserved(runs: Sequence[SweepRun], jobs: Sequence[Job]) -> list[SweepRun]:
    """Returns the runs that were given to none of the jobs."""
    given = {index for job in jobs for index in job.runs or ()}
    shapes = {job.shape for job in jobs if job.runs is None}
    if None in shapes:
        return []
    return [run for run in runs if run.index not in given and run.shape not in shapes]


def idle(jobs: Sequence[Job], runs: Sequence[SweepRun]) -> list[Job]:
    """Returns the jobs to which none of the runs was given."""
    indices, shapes = {run.index for run in runs}, {run.shape for run in runs}
    needed = {None, *shapes} if runs else set()
    return [job for job in jobs if not (indices & set(job.runs) if job.runs is not None else job.shape in needed)]
