"""From a sweep file to jobs: plan, sweep directory, jobs for what is not done and not on its way already."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gpt_opt.app.app import App
from gpt_opt.dispatch import snapshot
from gpt_opt.dispatch.backends.base import backend_named
from gpt_opt.dispatch.backends.limits import check_backend, usable
from gpt_opt.dispatch.backends.plain_names import require_links
from gpt_opt.dispatch.jobs import living_jobs, unserved
from gpt_opt.dispatch.start import Outcome, adopt, scripts, start_jobs, task_files
from gpt_opt.errors import ConfigError, Problem, counted
from gpt_opt.plan.dag import described, rule
from gpt_opt.plan.planner import Plan
from gpt_opt.plan.planner_of import planner_of
from gpt_opt.plan.resources import needs, to_record
from gpt_opt.records.io import append_records, to_json, write_text
from gpt_opt.records.job_id import this_job
from gpt_opt.records.planned_configs import text_of
from gpt_opt.records.sweep_dir import (
    Shape,
    StageRecord,
    Submission,
    Sweep,
    SweepRun,
    create,
    locked,
    numbers,
    submissions,
)
from gpt_opt.run.resolvers import NEW_DIRECTORY
from gpt_opt.sweep.model import Resources, Stage

log = logging.getLogger(__name__)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        file: The sweep file; None where the points do not come from one.
        extra: Overrides after it.
        backend: Key of `backends.base.BACKENDS`.
        slots: Runs at a time; None for the backend's own choice.
        flags: Resources given as flags, None where not given.
        app: What the runs are of.
        sweeps: Folder of sweep directories.
        live: Whether jobs import from the repository as it is then, instead of a snapshot of what it is now.
        cold: Whether each run is a new process, instead of a child of its slot's warm one.
    """

    file: Path | None
    extra: tuple[str, ...]
    backend: str
    slots: int | None
    flags: Mapping[str, Any]
    app: App
    sweeps: Path
    live: bool = False
    cold: bool = False


def _planned(request: Request) -> Plan:
    assert request.file is not None, "points without a file go through prepare_points"
    plan = planner_of(request.app).plan(request.file, request.extra, sweeps=request.sweeps, flags=request.flags)
    _require_slots(plan, request)
    for line in (*plan.changes(), *(f"warning: {warning}" for warning in plan.warnings)):
        log.warning("%s", line)
    return plan


def _keep(request: Request, plan: Plan) -> Callable[[Sweep], None]:
    """Takes the snapshot of a request; returns what puts it, and the planned configs, into a sweep directory."""
    targets = snapshot.targets_in(plan.configs)
    root, folder = request.app.root, request.app.program.folder
    code = None if request.live else snapshot.take(request.sweeps, root, Path.cwd(), targets, folder)
    configs = text_of((run.run_id, changes) for run, changes in zip(plan.runs, plan.configs, strict=True))

    def keep(sweep: Sweep) -> None:
        write_text(sweep.planned_configs, configs)
        if plan.choices and not sweep.choices.exists():
            append_records(sweep.choices, map(asdict, plan.choices.values()))
        if code is not None:
            snapshot.link(sweep, code)
        else:
            sweep.code.unlink(missing_ok=True)

    return keep


def _require_slots(plan: Plan, request: Request) -> None:
    """Refuses a plan that no slot could work through."""
    if any(run.run_dir == NEW_DIRECTORY for run in plan.runs):
        message = "makes a new directory at every start, but a sweep has to find its runs again"
        raise ConfigError([Problem("paths", message, "leave out paths=local_run_dir")], ", nothing was submitted")
    check_backend(plan.shapes, request.backend, request.slots, request.flags)
    require_links(request.sweeps / plan.grid.name)


def _require_one_allocation(plan: Plan, request: Request) -> None:
    """Refuses to work through several shapes in the Slurm job that this process is in."""
    if not this_job().is_slurm or len(plan.shapes) == 1:
        return
    counts = Counter(run.resources for run in plan.runs)
    shapes = "; ".join(f"{counted(counts[shape], 'run')}: {needs(shape)}" for shape in plan.shapes)
    message = f"must be the same for all runs of one allocation, but there are {len(plan.shapes)} shapes: {shapes}"
    file = "the points as a sweep file: gptopt submit FILE" if request.file is None else f"gptopt submit {request.file}"
    raise ConfigError(
        [Problem("resources", message, f"{file} asks for an allocation for each")], ", nothing was started"
    )


def _draft(request: Request, plan: Plan) -> tuple[Submission, list[SweepRun]]:
    metric = None if plan.grid.metric is None else asdict(plan.grid.metric)
    backend, needed = backend_named(request.backend), [usable(run.resources, request.backend) for run in plan.runs]
    together = _at_a_time(plan, needed)
    slots = {shape: request.slots or backend.slots(shape, number) for shape, number in together.items()}
    stages = [StageRecord(stage.name, described(stage.start), _metric(stage)) for stage in plan.grid.stages]
    submission = Submission(
        sweep=plan.grid.name,
        file="" if request.file is None else str(request.file),
        extra=request.extra,
        backend=request.backend,
        shapes=tuple(Shape(to_record(shape), number) for shape, number in slots.items()),
        metric=metric,
        cwd=os.getcwd(),
        root=str(request.app.root),
        program=request.app.program,
        snapshot=not request.live,
        cold=request.cold,
        stages=tuple(stages) if plan.grid.is_staged else (),
    )
    index = {shape: number for number, shape in enumerate(slots)}
    runs = [
        SweepRun(
            run.index,
            run.run_id,
            str(Path(run.run_dir).absolute()),
            run.overrides,
            index[resources],
            run.stage,
            run.number,
            run.parent,
            run.choice,
            replace(run.workload, step_s=plan.step_s.get(run.workload.name)),
        )
        for run, resources in zip(plan.runs, needed, strict=True)
    ]
    return submission, runs


def _at_a_time(plan: Plan, needed: Sequence[Resources]) -> dict[Resources, int]:
    """Returns how many runs of each shape can be at work together: those of its largest stage."""
    counts: dict[Resources, Counter[str]] = {shape: Counter() for shape in needed}
    for run in plan.counted:
        counts[needed[run.index]][run.stage] += 1
    return {shape: max(counter.values(), default=1) for shape, counter in counts.items()}


def _metric(stage: Stage) -> dict[str, str] | None:
    best = None if stage.start is None else stage.start.best
    return None if best is None else asdict(rule(best))


def _same_sweep(parent: Path, submission: Submission, runs: Sequence[SweepRun]) -> Sweep | None:
    """Returns the newest submission that has exactly these runs, in any order, in the same stages."""
    asked = _tree(submission, runs)
    earlier = reversed(submissions(parent, leave_out))
    return next((sweep for sweep in earlier if _tree(sweep.submission(), sweep.runs) == asked), None)


def _tree(submission: Submission, runs: Sequence[SweepRun]) -> tuple[Any, ...]:
    """Returns which runs a sweep has, in which stages, what each starts from, and by which rule that is chosen."""
    ids = {run.index: run.run_id for run in runs}
    places = {(run.run_id, run.stage, run.choice, None if run.parent is None else ids[run.parent]) for run in runs}
    return places, {stage.name: stage.metric for stage in submission.stages}


def leave_out(error: Exception) -> None:
    """Says that an earlier submission cannot be read, and so is left as it is."""
    log.warning("left out: %s", error)


def preview(request: Request) -> str:
    """Returns the exact texts that would be submitted, and the task files; writes nothing."""
    plan = _planned(request)
    submission, runs = _draft(request, plan)
    parent = (request.sweeps / plan.grid.name).absolute()
    sweep = _same_sweep(parent, submission, runs) or Sweep(parent / str(max(numbers(parent), default=0) + 1))
    first = [run for run in runs if run.parent is None]  # what starts from others is handed out as it becomes ready
    tasks = [f"# {file}\n{text}" for file, text in task_files(sweep, submission, first).items()]
    return "\n".join([scripts(sweep, submission, runs), *tasks])


def prepare(request: Request) -> Sweep:
    """Plans, and makes or finds the sweep directory, for this process to work through it; submits nothing.

    Raises:
        RequestError: If the sweep file, a point, or a resource is wrong; nothing is written then.
    """
    plan = _planned(request)
    _require_one_allocation(plan, request)
    return _in_directory(request, plan, lambda sweep: sweep)


def _in_directory(request: Request, plan: Plan, work: Callable[[Sweep], Made]) -> Made:
    """Makes or finds the sweep directory of a plan, and does `work` while no other process can change it.

    A sweep whose last submission has the same runs goes on in its directory, with the resources of this request.
    """
    submission, runs = _draft(request, plan)
    parent, keep = (request.sweeps / plan.grid.name).absolute(), _keep(request, plan)
    with locked(parent):
        sweep = _same_sweep(parent, submission, runs)
        if sweep is None:
            sweep = create(parent, Path(plan.grid.source).read_text(encoding="utf-8"), runs, submission, keep)
        else:
            _renew(sweep, submission, runs, keep)
        return work(sweep)


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
    plan = planner_of(request.app).plan_points(name, points, request.sweeps, request.flags)
    _require_slots(plan, request)
    _require_one_allocation(plan, request)
    submission, runs = _draft(request, plan)
    parent, keep = (request.sweeps / name).absolute(), _keep(request, plan)
    with locked(parent):
        sweep = _before_requeue(parent, submission, runs)
        if sweep is None:
            params = to_json({"name": name, "points": [list(point) for point in points]})
            sweep = create(parent, params, runs, submission, keep)
        adopt(sweep)
    first = {run.point: sweep.run(run.run_id) for run in plan.runs}
    return sweep, tuple(first[plan.duplicates.get(index, index)] for index in range(plan.points))


def _before_requeue(parent: Path, submission: Submission, runs: Sequence[SweepRun]) -> Sweep | None:
    """Returns the sweep that this Slurm job made of the same runs before it was requeued."""
    own = this_job()
    last = _same_sweep(parent, submission, runs) if own.restart else None
    return last if last is not None and own.job in {job.id for job in last.submission().jobs} else None


def _renew(sweep: Sweep, submission: Submission, runs: Sequence[SweepRun], keep: Callable[[Sweep], None]) -> None:
    """Gives a sweep the resources of a new request, but for runs that a job was given which waits or works still.

    The code of the new request comes with them where no job waits or works.

    Args:
        sweep: The sweep as it was submitted before.
        submission: The new request.
        runs: The same runs, as the new request has them: in another order perhaps, and of other shapes.
        keep: Puts the code of the request into the sweep directory.
    """
    former, living = sweep.submission(), living_jobs(sweep, submission.backend)
    submission = _with_code(sweep, submission, former, bool(living), keep)
    asked = {run.run_id: run for run in runs}
    other_backend = bool(living) and former.backend != submission.backend
    free = set() if other_backend else {run.run_id for run in unserved(sweep.runs, living)}
    shapes, place = _places(former, submission, sweep.runs, asked, free)
    renewed = [
        replace(run, overrides=asked[run.run_id].overrides, shape=place[asked[run.run_id].shape])
        if run.run_id in free
        else run
        for run in sweep.runs
    ]
    if other_backend or any(shapes[run.shape] != submission.shapes[asked[run.run_id].shape] for run in renewed):
        log.warning("%s: its job goes on with the resources it has; submit again when it has ended", sweep.label)
    if free:  # the plan comes last: whatever it says, before and after, the submission has such a shape
        sweep.write_submission(replace(submission, shapes=shapes, created=former.created, jobs=former.jobs))
        sweep.write_plan(renewed)


def _with_code(
    sweep: Sweep, submission: Submission, former: Submission, living: bool, keep: Callable[[Sweep], None]
) -> Submission:
    """Gives a sweep the code of a new request where no job is alive; returns the submission as it then is."""
    if living:
        if submission.snapshot != former.snapshot or snapshot.has_changed(sweep, former):
            log.warning("%s: its job goes on with the code it has; submit again when it has ended", sweep.label)
        return replace(submission, snapshot=former.snapshot)
    before = sweep.code.resolve()
    keep(sweep)
    if former.snapshot and submission.snapshot and before != (after := sweep.code.resolve()):
        comparison = f"diff -r -x __pycache__ {os.path.relpath(before)} {os.path.relpath(after)}"
        kept = "done runs keep their results, the others are trained with that of now"
        log.warning("%s: the code has changed (%s): %s", sweep.label, comparison, kept)
    return submission


def _places(
    former: Submission,
    submission: Submission,
    runs: Sequence[SweepRun],
    asked: Mapping[str, SweepRun],
    free: Set[str],
) -> tuple[tuple[Shape, ...], dict[int, int]]:
    """Returns the shapes of a renewed sweep, and where in them those of the new request are.

    Shapes that a job still works on keep their places; nothing joins them, for their drivers know what they have.
    """
    if all(run.run_id in free for run in runs):
        new = len(submission.shapes)
        return (*submission.shapes, *former.shapes[new:]), {index: index for index in range(new)}
    taken = {run.shape for run in runs if run.run_id not in free}
    shapes, place = list(former.shapes), {}
    for index in sorted({asked[name].shape for name in free}):
        shape = submission.shapes[index]
        places = [number for number, other in enumerate(shapes) if other == shape and number not in taken]
        if not places:
            shapes.append(shape)
        place[index] = places[0] if places else len(shapes) - 1
    return tuple(shapes), place


def submit(request: Request) -> Outcome:
    """Submits jobs for everything of a sweep that is not done and not on its way.

    Raises:
        RequestError: If the request is wrong; nothing was submitted.
        GptOptError: If Slurm refuses; what it took before is recorded.
    """
    return _in_directory(request, _planned(request), start_jobs)
