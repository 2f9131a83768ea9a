"""What can be said of a sweep now, from the files of its runs and one question to Slurm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from gpt_opt.dispatch.driver_claim import is_driven
from gpt_opt.dispatch.failure_groups import Failure, FailureGroup, grouped
from gpt_opt.dispatch.job_status import JobStatus, job_statuses, known_to_slurm, last_lines
from gpt_opt.dispatch.jobs import local_drivers
from gpt_opt.dispatch.progress import Metric
from gpt_opt.dispatch.run_status import RunReader, RunStatus
from gpt_opt.dispatch.stages import Chosen, with_parents
from gpt_opt.records.code import Code, Manifest, code_in, other_code
from gpt_opt.records.efficiency import Efficiency, efficiency
from gpt_opt.records.job_id import JobId
from gpt_opt.records.lost_nodes import read_lost_nodes
from gpt_opt.records.provenance import read_provenance
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.speeds import read_speeds
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Shape, Submission, Sweep

_MOST_NAMES = 10


@dataclass(frozen=True)
class SweepStatus:
    """A sweep.

    Attributes:
        label: `<name>/<n>`.
        submission: What was submitted.
        metric: The metric that is shown.
        runs: Every run, in the order of the plan.
        jobs: Every job so far, oldest first; then drivers that were started by hand.
        driven: Whether a driver holds the sweep.
        failures: FAILED runs, and INTERRUPTED ones of a known cause, by cause.
        notes: What could not be read or asked, a line each.
        efficiency: How well it has used its slots.
        choices: What has become of the choices among runs that a later stage starts from, by their names.
    """

    label: str
    submission: Submission
    metric: Metric
    runs: tuple[RunStatus, ...]
    jobs: tuple[JobStatus, ...]
    driven: bool
    failures: tuple[FailureGroup, ...]
    notes: tuple[str, ...]
    efficiency: Efficiency
    choices: Mapping[str, Chosen] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[int, tuple[Shape, list[RunStatus]]]:
        """Every shape that runs have, by its index, with those runs."""
        found: dict[int, tuple[Shape, list[RunStatus]]] = {}
        for item in sorted(self.runs, key=lambda item: item.run.shape):
            index = item.run.shape
            found.setdefault(index, (self.submission.shapes[index], []))[1].append(item)
        return found

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of the runs that others may start from, by run id; none in a sweep without stages."""
        return {item.run.run_id: item.run.name for item in self.runs if item.run.stage}

    @property
    def all_done(self) -> bool:
        """Whether every run is COMPLETED."""
        return all(item.what.is_done for item in self.runs)

    @property
    def counts(self) -> dict[State, int]:
        """Number of runs of every state."""
        found = Counter(item.state for item in self.runs)
        return {state: found[state] for state in State}

    @property
    def alive(self) -> bool | None:
        """Whether a driver or a job may still start runs; None when not known."""
        if self.driven or any(job.alive for job in self.jobs):
            return True
        return None if any(job.alive is None for job in self.jobs) else False

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing is known, or may be assumed, to start anything."""
        return self.alive is False and not any(item.what.is_locked for item in self.runs)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 something waits for the user, 3 still running or waiting with nothing failed so far."""
        if self.all_done:
            return 0
        return 1 if self.idle or any(item.what.needs_user for item in self.runs) else 3

    @property
    def fraction(self) -> float:
        """Part of the sweep that is done, by steps where they are known."""
        return sum(item.fraction for item in self.runs) / max(1, len(self.runs))

    @property
    def eta_s(self) -> float | None:
        """Seconds until all due runs are done, at the speed and on the slots of now; None where nothing is observed."""
        running = [item for item in self.runs if item.state is State.RUNNING]
        speeds = [item.progress.steps_per_s for item in running if item.progress.steps_per_s]
        completed = (item for item in self.runs if item.what.is_done)
        speeds = speeds or [item.step / item.time_s for item in completed if item.time_s and item.step]
        totals = [item.total_steps for item in self.runs if item.total_steps]
        if not running or not speeds or not totals:
            return None
        speed, usual = sum(speeds) / len(speeds), sum(totals) / len(totals)
        work = [item for item in self.runs if item.what.is_waiting or item.what.is_running]
        remaining = sum(max(0.0, (item.total_steps or usual) - item.step) for item in work)
        own = ((item.progress.steps_per_s or speed, (item.total_steps or usual) - item.step) for item in running)
        return max(remaining / speed / len(running), *(left / rate for rate, left in own))


def gather(sweep: Sweep, ask_slurm: bool = True, before: SweepStatus | None = None) -> SweepStatus:
    """Reads a sweep and its runs, and asks Slurm at most once.

    Args:
        sweep: The sweep directory.
        ask_slurm: Whether to ask Slurm where the sweep has jobs there.
        before: A status of a moment ago: COMPLETED runs are taken from it, and jobs where Slurm is not asked.

    Raises:
        GptOptError: If the sweep directory is not one of ours.
    """
    submission, driven = sweep.submission(), is_driven(sweep)
    notes: list[str] = []
    goal = submission.metric
    metric = Metric(goal["name"], goal.get("goal", "minimize")) if goal else Metric("loss", None)
    reader = RunReader(sweep, submission, metric, notes)
    completed = {item.run.run_id: item for item in before.runs if item.what.is_done} if before else {}
    histories = {run.index: reader.history(run) for run in sweep.runs if run.run_id not in completed}
    lost = {item.job.job for history in histories.values() for item in history.lost() if item.job is not None}
    jobs = sorted({job.id for job in submission.jobs if JobId(job.id).is_slurm} | lost)
    known = known_to_slurm(jobs, notes) if ask_slurm and jobs else None
    former = {job.id: job for job in before.jobs} if before is not None and not ask_slurm else {}
    runs = tuple(completed.get(run.run_id) or reader.read(run, histories[run.index], known or {}) for run in sweep.runs)
    chosen: dict[str, Chosen] = {}
    if submission.stages:
        by_run = {item.run: item for item in runs}
        staged, choices = with_parents(sweep, submission, {item.run: item.what for item in runs}, reader.paths)
        runs = tuple(replace(by_run[run], what=what) for run, what in staged.items())
        chosen = choices.found
    stages = {item.run.index: item.run.stage for item in runs}
    failures = grouped(list(_failures(runs)), {item.run.index: item.run.overrides for item in runs}, stages)
    statuses = tuple(job_statuses(submission, known, former, [job.id for job in local_drivers(sweep)]))
    newest = {job.shape: job for job in statuses}
    notes += last_lines(sweep, list(newest.values()), histories.values())
    notes += _other_code(sweep, submission, runs)
    lost_nodes = [item for part in sweep.parts() for item in read_lost_nodes(part.lost_nodes).items()]
    notes += [f"node {node} gave no slot: {reason}" for node, reason in dict(lost_nodes).items()]
    notes += _left(sweep, runs)
    used = efficiency(sweep, submission, (item.times for item in runs))
    return SweepStatus(sweep.label, submission, metric, runs, statuses, driven, failures, tuple(notes), used, chosen)


def _left(sweep: Sweep, runs: Sequence[RunStatus]) -> Iterator[str]:
    """Yields which due runs a driver leaves for the next allocation, as too little of its own is left for them."""
    found = {index for part in sweep.parts() for index in read_speeds(part.speeds).left}
    names = [item.run.name for item in runs if item.run.index in found and item.what.is_due]
    if names:
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        yield f"left for the next allocation: run {', '.join(names[:_MOST_NAMES])}{more}"


@lru_cache(maxsize=1 << 16)  # a live view asks for the same ones again and again
def _code_of(paths: RunPaths, written_ns: int) -> Code | None:
    return code_in(read_provenance(paths))


def _code(item: RunStatus) -> Code | None:
    """Returns what a run was made with."""
    try:
        return _code_of(item.paths, item.paths.provenance.stat().st_mtime_ns)
    except OSError:
        return None


def _other_code(sweep: Sweep, submission: Submission, runs: Iterable[RunStatus]) -> list[str]:
    """Returns lines about runs that were made with other code: than that of now, or of an application's snapshot."""
    codes = (_code(item) for item in runs if item.what.is_done)
    if not submission.program.folder:
        return other_code(codes)
    manifest = Manifest.read(sweep.code.resolve())
    if manifest is None:
        return []
    return other_code(codes, Code(manifest.code_sha256, str(sweep.code), manifest.commit, manifest.dirty))


def _failures(runs: Sequence[RunStatus]) -> Iterator[Failure]:
    for item in runs:
        if item.cause is not None and item.state in (State.FAILED, State.INTERRUPTED):
            yield Failure(item.run.index, item.state, item.cause, item.message, item.run.stage)
