"""From a sweep file to jobs: plan, sweep directory, jobs for what is not done and not on its way already."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.base import BACKENDS, living_jobs, tasks_of
from gpt_opt.dispatch.backends.plain_names import require_links
from gpt_opt.dispatch.backends.resources import as_record, from_record
from gpt_opt.dispatch.backends.sbatch_script import check_backend
from gpt_opt.dispatch.driver import Due, due
from gpt_opt.dispatch.reconcile import settle
from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.plan.existing import NEW_DIRECTORY
from gpt_opt.plan.planner import Plan, Planner
from gpt_opt.records.io import now, to_json, write_text
from gpt_opt.records.sweep_dir import Job, Submission, Sweep, SweepRun, create, locked, numbers
from gpt_opt.sweep.model import Grid, Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        file: The sweep file; None where the points do not come from one.
        extra: Overrides after it.
        backend: Key of `backends.BACKENDS`.
        slots: Runs at a time; None for the backend's own choice.
        flags: Resources given as flags, None where not given.
        root: The repository.
        sweeps: Folder of sweep directories.
    """

    file: Path | None
    extra: tuple[str, ...]
    backend: str
    slots: int | None
    flags: Mapping[str, Any]
    root: Path
    sweeps: Path


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        sweep: The sweep directory.
        started: Jobs that this call submitted.
        alive: Jobs of this sweep that were at work or waiting already.
        state: Which runs are done, due, held, or left to the user.
    """

    sweep: Sweep
    started: tuple[Job, ...]
    alive: tuple[Job, ...]
    state: Due


def _planned(request: Request) -> Plan:
    assert request.file is not None, "points without a file go through prepare_points"
    planner = Planner(request.root / "hydra_conf")
    plan = planner.plan(request.file, request.extra, sweeps=request.sweeps, flags=request.flags)
    _require_slots(plan, request)
    for line in plan.changes():
        log.warning("%s", line)
    return plan


def _require_slots(plan: Plan, request: Request) -> None:
    """Refuses a plan that no slot could work through."""
    if any(run.run_dir == NEW_DIRECTORY for run in plan.runs):
        message = "makes a new directory at every start, but a sweep has to find its runs again"
        raise ConfigError([Problem("paths", message, "leave out paths=local_run_dir")], ", nothing was submitted")
    check_backend(plan.resources, request.backend, request.slots)
    require_links(request.sweeps / plan.grid.name)


def _draft(request: Request, plan: Plan) -> tuple[Submission, list[SweepRun]]:
    metric = None if plan.grid.metric is None else asdict(plan.grid.metric)
    submission = Submission(
        sweep=plan.grid.name,
        file="" if request.file is None else str(request.file),
        extra=request.extra,
        backend=request.backend,
        slots=request.slots,
        resources=as_record(plan.resources),
        metric=metric,
        cwd=os.getcwd(),
        root=str(request.root),
    )
    runs = [SweepRun(run.index, run.run_id, str(Path(run.run_dir).absolute()), run.overrides) for run in plan.runs]
    return submission, runs


def _with_slots(submission: Submission, runs: int) -> Submission:
    if submission.slots is not None:
        return submission
    return replace(submission, slots=BACKENDS[submission.backend].slots(from_record(submission.resources), runs))


def _same_sweep(parent: Path, runs: Sequence[SweepRun]) -> Sweep | None:
    """Returns the newest submission that has exactly these runs, in any order."""
    wanted = {run.run_id for run in runs}
    former = (Sweep(parent / str(number)) for number in reversed(numbers(parent)))
    return next((sweep for sweep in former if {run.run_id for run in sweep.runs} == wanted), None)


def preview(request: Request) -> str:
    """Returns the exact text that would be submitted, and the task file; writes nothing."""
    plan = _planned(request)
    submission, runs = _draft(request, plan)
    submission = _with_slots(submission, len(runs))
    parent = (request.sweeps / plan.grid.name).absolute()
    sweep = _same_sweep(parent, runs) or Sweep(parent / str(max(numbers(parent), default=0) + 1))
    script = BACKENDS[request.backend].script(sweep, submission)
    return f"{script}\n# {sweep.tasks}\n{tasks_of(sweep, submission, runs)}"


def prepare(request: Request, state_lock: Callable[[Sweep], None] | None = None) -> Sweep:
    """Plans, and makes or finds the sweep directory; submits nothing.

    A sweep whose last submission has the same runs goes on in its directory, with the resources of this request.

    Raises:
        RequestError: If the sweep file, a point, or a resource is wrong; nothing is written then.
    """
    plan = _planned(request)
    submission, runs = _draft(request, plan)
    parent = (request.sweeps / plan.grid.name).absolute()
    with locked(parent):
        submission = _with_slots(submission, len(runs))
        sweep = _same_sweep(parent, runs)
        if sweep is None:
            sweep = create(parent, Path(plan.grid.source).read_text(encoding="utf-8"), runs, submission)
        else:
            _renew(sweep, submission)
        if state_lock is not None:
            state_lock(sweep)
    return sweep


def prepare_points(request: Request, name: str, points: Sequence[Sequence[str]]) -> tuple[Sweep, tuple[SweepRun, ...]]:
    """Plans points that are given as override strings, and makes a sweep directory for them; submits nothing.

    Each call makes a new one, so that runs that failed are due again, as they are without a sweep directory. Only a
    Slurm job that was requeued goes on in its own.

    Args:
        request: Without a file.
        name: Of the sweep.
        points: Override strings of every point.

    Returns:
        The sweep directory, and the run of each point; points of the same config share one.

    Raises:
        RequestError: If a point or a resource is wrong; nothing is written then.
    """
    planner = Planner(request.root / "hydra_conf")
    plan = planner.plan_points(Grid(name, Space()), points, sweeps=request.sweeps, flags=request.flags)
    _require_slots(plan, request)
    submission, runs = _draft(request, plan)
    parent = (request.sweeps / name).absolute()
    with locked(parent):
        sweep = _before_requeue(parent, runs)
        if sweep is None:
            params = to_json({"name": name, "points": [list(point) for point in points]})
            sweep = create(parent, params, runs, _with_slots(submission, len(runs)))
        adopt(sweep)
    first = {run.point: sweep.run(run.run_id) for run in plan.runs}
    return sweep, tuple(first[plan.collapsed.get(index, index)] for index in range(plan.points))


def _before_requeue(parent: Path, runs: Sequence[SweepRun]) -> Sweep | None:
    """Returns the sweep that this Slurm job made of the same runs before it was requeued."""
    last = _same_sweep(parent, runs) if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else None
    return last if last is not None and slurm.job_id() in {job.id for job in last.submission().jobs} else None


def _renew(sweep: Sweep, submission: Submission) -> None:
    """Gives a sweep the resources of a new request, unless a job works on it that was given others."""
    former = sweep.submission()
    if not living_jobs(sweep, submission.backend):
        kept = replace(submission, created=former.created, jobs=former.jobs)
        write_text(sweep.submission_file, to_json(asdict(kept)))
        return
    told, asked = (former.resources, former.slots), (submission.resources, submission.slots)
    if told != asked or former.backend != submission.backend:
        log.warning("%s: its job goes on with the resources it has; submit again when it has ended", sweep.label)


def submit(request: Request) -> Outcome:
    """Submits jobs for everything of a sweep that is not done and not on its way.

    Raises:
        RequestError: If the request is wrong; nothing was submitted.
        GptOptError: If Slurm refuses; what it took before is recorded.
    """
    outcomes: list[Outcome] = []
    prepare(request, lambda sweep: outcomes.append(start_jobs(sweep)))
    return outcomes[0]


def start_jobs(sweep: Sweep) -> Outcome:
    """Submits jobs for the runs that are due and that no living job has; the caller holds `locked`."""
    settle(sweep)
    submission, state = sweep.submission(), due(sweep)
    backend = BACKENDS[submission.backend]
    alive = living_jobs(sweep)
    covered = {index for job in alive if job.runs is not None for index in job.runs}
    everything = any(job.runs is None for job in alive)
    runs = [] if everything else [run for run in state.runnable if run.index not in covered]
    started: list[Job] = []

    def record(jobs: Sequence[Job]) -> None:
        sweep.add_jobs(jobs)
        started.extend(jobs)

    if runs:
        sweep.lost_nodes.unlink(missing_ok=True)  # of jobs before
        script = backend.script(sweep, submission)
        write_text(sweep.submission_file, to_json(asdict(replace(submission, script=script))))
        write_text(sweep.tasks, tasks_of(sweep, submission, runs))
        backend.start(sweep, submission, runs, record)
    return Outcome(sweep, tuple(started), tuple(alive), state)


def adopt(sweep: Sweep) -> None:
    """Records the Slurm job that this process is in as a job of the sweep; the caller holds `locked`."""
    own = slurm.job_id()
    if own is not None and own not in {job.id for job in sweep.submission().jobs}:
        sweep.add_jobs([Job(own, now())])


def sweep_of_this_job(sweeps: Path, file: Path) -> Sweep | None:
    """Returns the sweep of `file` that this Slurm job worked on before it was requeued."""
    own = slurm.job_id()
    if own is None or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    for record in sorted(sweeps.glob("*/[0-9]*/submission.json"), key=os.path.getmtime, reverse=True):
        sweep = Sweep(record.parent.absolute())
        try:
            submission = sweep.submission()
        except GptOptError:
            continue  # not ours, and so not this job's
        if submission.file == str(file) and own in {job.id for job in submission.jobs}:
            return sweep
    return None
