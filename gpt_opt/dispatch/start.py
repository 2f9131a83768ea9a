"""Jobs for the runs of a sweep that are due: submitted by whoever submits it, and by its own jobs for later stages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt_opt.dispatch.backends.base import backend_named
from gpt_opt.dispatch.backends.disbatch import task_text
from gpt_opt.dispatch.backends.resources import by_shape
from gpt_opt.dispatch.classify import BlockedBy, ClassifiedRuns
from gpt_opt.dispatch.jobs import living_jobs, unserved
from gpt_opt.dispatch.reconcile import reconcile
from gpt_opt.dispatch.stages import classify_runs, decide
from gpt_opt.errors import GptOptError
from gpt_opt.plan.resources import from_record
from gpt_opt.records.io import now, write_text
from gpt_opt.records.job_id import JobId, this_job
from gpt_opt.records.lost_nodes import forget_lost_nodes
from gpt_opt.records.sweep_dir import Job, Submission, Sweep, SweepRun, locked, submitted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        sweep: The sweep directory.
        started: Jobs that this call submitted.
        alive: Jobs of this sweep that were running or waiting already.
        runs: What each run is.
    """

    sweep: Sweep
    started: tuple[Job, ...]
    alive: tuple[Job, ...]
    runs: ClassifiedRuns

    @property
    def is_blocked(self) -> bool:
        """Whether no job is there, since runs wait for others that need the user."""
        return bool(self.runs.blocked) and not (self.started or self.alive)


def start_jobs(sweep: Sweep) -> Outcome:
    """Submits jobs for the runs that are due and that no living job has; the caller holds `locked`."""
    reconcile(sweep)
    decide(sweep)
    submission, classified, alive = sweep.submission(), classify_runs(sweep), living_jobs(sweep)
    wanted = classified.where(lambda item: item.is_due or item.blocked_by is BlockedBy.WAIT)
    backend = backend_named(submission.backend)
    runs, started = unserved(wanted if backend.takes_waiting else classified.due, alive), list[Job]()
    if runs:
        sweep.write_submission(replace(submission, script=scripts(sweep, submission, runs)))
        for file, text in task_files(sweep, submission, runs).items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, text)
        for shape in by_shape(runs):
            forget_lost_nodes(sweep.part(shape).lost_nodes)  # of jobs before
        try:
            for jobs in backend.start(sweep, submission, runs):
                sweep.add_jobs(jobs)
                started += jobs
        except KeyboardInterrupt as stop:
            if not started:
                raise KeyboardInterrupt("no job was submitted") from stop
            names = ", ".join(dict.fromkeys(JobId(job.id).array for job in started))
            raise KeyboardInterrupt(f"{names} {goes_on(sweep.label)}") from stop
    return Outcome(sweep, tuple(started), tuple(alive), classified)


def goes_on(label: str) -> str:
    """Returns what a user who stops waiting for a sweep, or for its job, has to know of it."""
    return f"goes on: gptopt status {label} shows it, gptopt cancel {label} ends it"


def start_ready(sweep: Sweep) -> None:
    """Submits jobs for runs that have become ready and that no living job has: called in a job of the sweep.

    A stage that needs something else from the cluster has an allocation of its own, which is asked for only now.
    """
    submission = sweep.submission()
    if not submission.stages or backend_named(submission.backend).takes_waiting or not this_job().is_slurm:
        return
    try:
        with locked(sweep.root.parent):
            started = start_jobs(Sweep(sweep.root)).started
    except GptOptError as error:
        log.error("runs are ready, but no job could be submitted for them: %s", error)
        return
    if started:
        log.info("submitted %s for runs that have become ready", ", ".join(job.id for job in started))


def adopt(sweep: Sweep) -> None:
    """Records the Slurm job that this process is in as a job of the sweep, or part; the caller holds `locked`."""
    own = this_job()
    if own.is_slurm and own.job not in {job.id for job in sweep.submission().jobs}:
        sweep.add_jobs([Job(own.job, now(), shape=sweep.shape)])


def sweep_of_this_job(sweeps: Path, file: Path) -> Sweep | None:
    """Returns the sweep of `file` that this Slurm job worked on before it was requeued."""
    own = this_job()
    if not own.restart:
        return None
    for sweep in map(Sweep, submitted(sweeps.absolute())):
        try:
            submission = sweep.submission()
        except GptOptError:
            continue  # not ours, and so not this job's
        if submission.file == str(file) and own.job in {job.id for job in submission.jobs}:
            return sweep
    return None


def scripts(sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> str:
    """Returns the texts that are submitted for the shapes of `runs`; equal ones once."""
    backend = backend_named(submission.backend)
    texts = [backend.script(sweep, submission, shape) for shape in by_shape(runs)]
    return "\n".join(dict.fromkeys(texts))


def task_files(sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> dict[Path, str]:
    """Returns the task file of each shape that `runs` have, as a driver would write it."""
    return {
        sweep.part(shape).tasks: task_text(sweep, part, from_record(submission.shapes[shape].resources))
        for shape, part in by_shape(runs).items()
    }
