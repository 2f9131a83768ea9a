"""Backends: how slots for a sweep are asked for. One small protocol, three ways, one table."""

from __future__ import annotations

import logging
import math
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.disbatch import task_text
from gpt_opt.dispatch.backends.plain_names import make_links, plain, program
from gpt_opt.dispatch.backends.resources import from_record
from gpt_opt.dispatch.backends.sbatch_script import groups, sbatch_text
from gpt_opt.dispatch.backends.submitit import SlotJob, executor, text
from gpt_opt.dispatch.driver import is_driven, local_slots
from gpt_opt.errors import GptOptError
from gpt_opt.records.claim import read_claim
from gpt_opt.records.io import now
from gpt_opt.records.job_id import JobId, this_job
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.sweep_dir import Job, Submission, Sweep, SweepRun
from gpt_opt.run.devices import DEVICES, visible
from gpt_opt.sweep.model import Resources

log = logging.getLogger(__name__)

MOST_SLOTS = 8
"""Slots asked for where the user does not say how many."""

_START_S = 30.0

Record = Callable[[Sequence[Job]], None]
"""Writes jobs into submission.json as soon as they exist."""


class Backend(Protocol):
    """Asks for slots."""

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns how many runs go at a time when the user does not say."""

    def script(self, sweep: Sweep, submission: Submission) -> str:
        """Returns the exact text that would be submitted."""

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun], record: Record) -> None:
        """Submits jobs for `runs` and records each as soon as it is there.

        Raises:
            GptOptError: If no job, or not all of them, could be submitted.
        """


class DisBatch:
    """One Slurm allocation; disBatch spreads the runs over its slots."""

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns one slot a run, at most `MOST_SLOTS`."""
        return max(1, min(runs, MOST_SLOTS))

    def script(self, sweep: Sweep, submission: Submission) -> str:
        """Returns the batch script."""
        programs, slots = str(Path(program("gptopt")).parent), submission.slots or 1
        resources, snapshot = from_record(submission.resources), submission.snapshot
        return sbatch_text(sweep, resources, slots, submission.root, programs, snapshot)

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun], record: Record) -> None:
        """Submits the one job."""
        make_links(sweep)
        record([Job(slurm.sbatch(self.script(sweep, submission), submission.cwd), now())])


class Local:
    """This machine: a driver in the background, disBatch on it."""

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns what the GPUs, or the cores, of this machine take."""
        most = local_slots(len(visible(os.environ)), resources.gpus_per_run, resources.cpus_per_run)
        return max(1, min(runs, most * (resources.runs_per_gpu or 1)))

    def script(self, sweep: Sweep, submission: Submission) -> str:
        """Returns the command line."""
        return f"gptopt drive {shlex.quote(str(sweep.root))} --slots {submission.slots}\n"

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun], record: Record) -> None:
        """Starts the driver and waits until it has claimed the sweep."""
        make_links(sweep)
        command = [program("gptopt"), "drive", str(sweep.root), "--slots", str(submission.slots)]
        with (sweep.logs / "driver-local.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=submission.cwd,
                env=_of_this_machine(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while process.poll() is None and not is_driven(sweep) and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() not in (None, 0):
            lines = (sweep.logs / "driver-local.out").read_text(errors="replace").strip().splitlines()
            raise GptOptError(f"the driver ended at once: {lines[-1] if lines else 'it said nothing'}")
        record([Job(f"local-{process.pid}", now())])


def _of_this_machine() -> dict[str, str]:
    """Returns the environment of a local driver: nothing of a surrounding job but its GPUs, for others are not ours."""
    environment = slurm.outside_job(os.environ)
    if this_job().is_slurm:
        environment[DEVICES] = ",".join(visible(os.environ))
    return environment


class Submitit:
    """One Slurm job a run (or a few, on one GPU), in arrays, through submitit."""

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns one slot a run, at most `MOST_SLOTS`."""
        return max(1, min(runs, MOST_SLOTS))

    def script(self, sweep: Sweep, submission: Submission) -> str:
        """Returns the batch script of one array."""
        return text(sweep, submission)

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun], record: Record) -> None:
        """Submits arrays no larger than the site allows; halves them when Slurm refuses one.

        Raises:
            GptOptError: If Slurm takes no more; what it took is recorded, and a later call submits the rest.
        """
        make_links(sweep)
        waiting = groups([run.index for run in runs], from_record(submission.resources).runs_per_gpu or 1)
        size, total = slurm.max_array_size(), len(waiting)
        options = slurm.options_of(self.script(sweep, submission))
        with _scrubbed(slurm.outside_job(os.environ, options)):
            while waiting:
                size = min(size, len(waiting))
                try:
                    record(self._array(sweep, submission, waiting[:size], math.ceil(total / size)))
                except _Refused as error:
                    if size > 1:
                        size //= 2
                        continue
                    raise GptOptError(
                        f"Slurm took {total - len(waiting)} of {total} jobs and then refused: {error}; what it took is "
                        f"recorded, and the same command submits the rest once there is room"
                    ) from error
                waiting = waiting[size:]

    def _array(self, sweep: Sweep, submission: Submission, parts: Sequence[tuple[int, ...]], arrays: int) -> list[Job]:
        from submitit.core.utils import FailedJobError

        chosen = executor(sweep, submission, arrays)
        before = set(sweep.submitit.glob("*"))
        tasks = [SlotJob(str(sweep.root), tuple(sweep.runs[index].run_id for index in part)) for part in parts]
        try:
            jobs = chosen.submit_array(tasks)
        except FailedJobError as error:
            for left in set(sweep.submitit.glob("*")) - before:
                left.unlink(missing_ok=True)
            raise _Refused(" ".join(str(error).split())) from error
        return [Job(job.job_id, now(), part) for job, part in zip(jobs, parts, strict=True)]


class _Refused(GptOptError):
    """Slurm did not take an array."""


def living_jobs(sweep: Sweep, backend: str | None = None) -> list[Job]:
    """Returns the jobs of a sweep that wait or work, whatever backend made them.

    Those whose record was lost between sbatch and the disk are found by their comment.

    Args:
        sweep: The sweep directory.
        backend: What it shall run on now, if not what submission.json says. A local driver need not wait for a Slurm
            that does not answer: should a job of before be at work all the same, its runs are held by it.

    Raises:
        SlurmError: If it may have jobs in Slurm, and Slurm does not answer.
    """
    submission = sweep.submission()
    claim = read_claim(RunPaths(sweep.root))
    jobs = []
    if claim is not None and claim.job is None and not claim.is_over():
        jobs.append(Job(f"local-{claim.owner.pid}", now()))
    if submission.backend == "local" and all(not JobId(job.id).is_slurm for job in submission.jobs):
        return jobs
    try:
        known = slurm.states([job.id for job in submission.jobs])
        jobs += [job for job in submission.jobs if job.id in known and known[job.id][-1].alive and job not in jobs]
        recorded = {JobId(job.id).array for job in submission.jobs}
        found = slurm.jobs_with_comment(str(plain(sweep).root))
        jobs += [Job(name, now()) for name in found if JobId(name).array not in recorded]
    except slurm.SlurmError as error:
        if (backend or submission.backend) != "local":
            raise
        log.warning("%s: what its Slurm jobs do is not known: %s", sweep.label, error)
    return jobs


@contextmanager
def _scrubbed(environment: Mapping[str, str]) -> Iterator[None]:
    """Replaces the environment of this process for what submitit starts."""
    former = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(former)


BACKENDS: Mapping[str, Backend] = {"disbatch": DisBatch(), "submitit": Submitit(), "local": Local()}
"""Every backend by its name."""


def tasks_of(sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> str:
    """Returns the task file for `runs`, as a driver would write it."""
    return task_text(sweep, runs, from_record(submission.resources).runs_per_gpu or 1)
