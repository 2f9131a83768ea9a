"""The backend submitit: each job of an array is one slot that executes one group of runs."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.plain_names import make_links, plain, program
from gpt_opt.dispatch.backends.resources import groups, site_options, slurm_slots
from gpt_opt.dispatch.backends.sbatch_script import environment_lines, import_line, names, option_lines, warning_s
from gpt_opt.dispatch.slot.slot import SESSION, Slot
from gpt_opt.dispatch.stages import must_wait
from gpt_opt.errors import GptOptError, RunFailed
from gpt_opt.plan.resources import from_record
from gpt_opt.records.io import now
from gpt_opt.records.job_id import JobId, this_job
from gpt_opt.records.sweep_dir import Job, Submission, Sweep, SweepRun
from gpt_opt.run.signals import ctrl_c_deferred
from gpt_opt.sweep.model import Resources

if TYPE_CHECKING:
    from submitit import SlurmExecutor
    from submitit.core.utils import DelayedSubmission

_MOST_REQUEUES = 1000
"""submitit counts time-outs of a job; runs make their own account, see `attempts.CAUSES`."""


class Submitit:
    """One Slurm job a run (or a few, on one GPU), in arrays, through submitit.

    The job of a run that starts from another depends on the job of that.
    """

    on_slurm = True
    spans_nodes = True
    default_time_min: int | None = 5
    takes_waiting = True  # Slurm lets them wait

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns one slot a run, up to a limit."""
        return slurm_slots(runs)

    def script(self, sweep: Sweep, submission: Submission, shape: int) -> str:
        """Returns the batch script of one array of runs of a shape."""
        return text(_part(sweep, submission, shape), submission)

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> Iterator[list[Job]]:
        """Submits arrays no larger than the site allows, each of one shape; halves them when Slurm refuses one."""
        make_links(sweep)
        jobs_of = {index: job.id for job in submission.jobs for index in job.runs or ()}
        arrays = _arrays_of(sweep, submission, runs)
        taken, total = 0, sum(len(tasks) for _, _, tasks in arrays)
        for shape, (condition, parents), tasks in arrays:
            ids = sorted({jobs_of[index] for index in parents if index in jobs_of})
            dependency = ":".join([condition, *ids]) if ids else ""
            try:
                for jobs in _submitted(_part(sweep, submission, shape), submission, tasks, dependency):
                    taken += len(jobs)
                    jobs_of |= {index: job.id for job in jobs for index in job.runs or ()}
                    yield jobs
            except _Refused as error:
                raise GptOptError(slurm.took_some(taken, total, str(error))) from error


def _submitted(
    part: Sweep, submission: Submission, waiting: Sequence[tuple[int, ...]], dependency: str
) -> Iterator[list[Job]]:
    """Submits tasks of one shape and yields the jobs of each array.

    Raises:
        _Refused: If Slurm takes no further job.
    """
    size, number = slurm.max_array_size(), len(waiting)
    environment = slurm.outside_job(os.environ, slurm.options_of(text(part, submission)))
    while waiting:
        size = min(size, len(waiting))
        try:
            with ctrl_c_deferred(of_children=True):
                with _replaced(environment):
                    jobs = _submit_array(part, submission, waiting[:size], math.ceil(number / size), dependency)
                yield jobs
        except _Refused:
            if size == 1:
                raise
            size //= 2
            continue
        waiting = waiting[size:]


_Depends = tuple[str, frozenset[int]]
"""Slurm's condition, and the indices of the runs that a run waits for; none where it waits for none."""


def _arrays_of(
    sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]
) -> list[tuple[int, _Depends, list[tuple[int, ...]]]]:
    """Returns shape, dependency and tasks of each array: runs that have one shape and wait for the same.

    A task also has the runs that will be made in the place of its own if another run is chosen.
    """
    whole = Sweep(sweep.root)
    sets: dict[tuple[int, _Depends], list[SweepRun]] = {}
    for run in runs:
        sets.setdefault((run.shape, _depends(run, whole)), []).append(run)
    found = []
    for (shape, depends), members in sets.items():
        together = from_record(submission.shapes[shape].resources).runs_per_gpu or 1
        indices = {run.index: [item.index for item in whole.alternatives(run)] for run in members}
        tasks = [tuple(chain.from_iterable(indices[i] for i in group)) for group in groups(list(indices), together)]
        found.append((shape, depends, tasks))
    return found


def _depends(run: SweepRun, sweep: Sweep) -> _Depends:
    if run.parent is None or not must_wait(sweep, run):
        return "", frozenset()
    parents = {sweep.runs[item.parent] for item in sweep.alternatives(run) if item.parent is not None}
    condition = "afterany" if run.choice else "afterok"  # of candidates it is enough that they have ended
    return condition, frozenset(item.index for run in parents for item in sweep.alternatives(run))


class _Refused(GptOptError):
    """Slurm did not take an array."""


def _part(sweep: Sweep, submission: Submission, shape: int) -> Sweep:
    """Returns what the jobs of a shape are called by: the sweep as a whole where it has no other shape."""
    return sweep.part(shape) if len(submission.shapes) > 1 else sweep


def _submit_array(
    part: Sweep, submission: Submission, tasks: Sequence[tuple[int, ...]], arrays: int, dependency: str
) -> list[Job]:
    """Submits one of `arrays` arrays, a job for each group of run indices.

    Raises:
        _Refused: If Slurm does not take it; nothing of it is left then.
    """
    from submitit.core.utils import FailedJobError

    chosen = executor(part, submission, arrays, dependency)
    before, waiting = set(part.submitit.glob("*")), _arrays_in_queue(part)
    run_ids = {run.index: run.run_id for run in part.runs}
    try:
        jobs = chosen.submit_array([SlotJob(str(part.root), tuple(run_ids[i] for i in task)) for task in tasks])
    except FailedJobError as error:
        # Slurm may have taken it, and sbatch not have heard of that in time: it would find none of its files.
        with suppress(slurm.SlurmError):
            slurm.cancel([*(_arrays_in_queue(part) - waiting)])
        for left in set(part.submitit.glob("*")) - before:
            left.unlink(missing_ok=True)
        raise _Refused(" ".join(str(error).split())) from error
    return [Job(job.job_id, now(), task, part.shape or 0) for job, task in zip(jobs, tasks, strict=True)]


def _arrays_in_queue(part: Sweep) -> set[str]:
    return {JobId(job).array for job in slurm.jobs_with_comment(names(part)[1])}


@contextmanager
def _replaced(environment: Mapping[str, str]) -> Iterator[None]:
    """Replaces the environment of this process for what submitit starts."""
    former = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(former)


class SlotJob:
    """What submitit pickles: a sweep directory and the runs of one slot, nothing else of the submitting process."""

    def __init__(self, sweep: str, run_ids: tuple[str, ...]) -> None:
        self.sweep, self.run_ids = sweep, run_ids
        self._slot: Slot | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"sweep": self.sweep, "run_ids": self.run_ids, "_slot": None}

    def __call__(self) -> None:
        """Executes the runs.

        Raises:
            RunFailed: If not all of them are COMPLETED in the end.
        """
        sweep = Sweep(Path(self.sweep))
        runs = [sweep.run(name) for name in self.run_ids]
        self._slot = Slot(sweep.part(runs[0].shape), {**os.environ, SESSION: this_job()})
        if not self._slot.execute(runs):
            raise RunFailed(f"not every run of {', '.join(self.run_ids)} is COMPLETED; see gptopt status {sweep.label}")

    def checkpoint(self) -> DelayedSubmission:
        """Has runs checkpoint and the job put back; submitit calls it before the time limit or a preemption."""
        from submitit.helpers import DelayedSubmission

        if self._slot is not None:
            self._slot.interrupt()
        return DelayedSubmission(SlotJob(self.sweep, self.run_ids))


def executor(sweep: Sweep, submission: Submission, arrays: int, dependency: str = "") -> SlurmExecutor:
    """Returns submitit's executor for one of `arrays` arrays of a shape, among which its slots are shared out."""
    from submitit import SlurmExecutor

    sweep.submitit.mkdir(mode=0o700, exist_ok=True)
    # -P: else the current directory, which may be the repository, comes before the snapshot.
    python = f"{shlex.quote(sys.executable)} -P"
    chosen = SlurmExecutor(folder=plain(sweep).submitit, max_num_timeout=_MOST_REQUEUES, python=python)
    chosen.update_parameters(**_parameters(sweep, submission))
    asked = submission.shapes[sweep.shape or 0]
    parallel = (asked.slots or 1) // (from_record(asked.resources).runs_per_gpu or 1)
    chosen.update_parameters(array_parallelism=max(1, parallel // arrays))
    if dependency:  # where what it waits for fails, Slurm withdraws it
        further = {"requeue": True, "dependency": dependency, "kill_on_invalid_dep": "yes"}
        chosen.update_parameters(additional_parameters=further)
    return chosen


def _parameters(sweep: Sweep, submission: Submission) -> dict[str, Any]:
    resources, (name, comment) = from_record(submission.shapes[sweep.shape or 0].resources), names(sweep)
    together = resources.runs_per_gpu or 1
    gpus = 1 if resources.gpus_per_run is None else resources.gpus_per_run
    found: dict[str, Any] = {
        "job_name": name,
        "comment": comment,
        "nodes": resources.nodes_per_run or 1,
        "ntasks_per_node": 1,
        "cpus_per_task": (resources.cpus_per_run or 1) * together,
        "gpus_per_node": gpus or None,
        "mem": None if resources.mem_gb is None else f"{round(resources.mem_gb * 1024 * together)}M",
        **site_options(resources),
        "signal_delay_s": warning_s(resources),
        "setup": [
            *option_lines(resources.sbatch),  # before any command, so sbatch reads them, and the last word is theirs
            "export SLURM_EXPORT_ENV=ALL",  # submitit's srun, where the job was submitted with none
            *environment_lines(submission.root, str(Path(program("gptopt")).parent), submission.program),
            *([import_line(sweep)] if submission.snapshot else []),
        ],
        "additional_parameters": {"requeue": True},
    }
    return {name: value for name, value in found.items() if value is not None}


def text(sweep: Sweep, submission: Submission) -> str:
    """Returns the batch script that submitit would submit."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = "python -P -u -m submitit.core._submit " + str(plain(sweep).submitit)
    return _make_sbatch_string(command=command, folder=plain(sweep).submitit, **_parameters(sweep, submission))
