"""From a sweep file to its plan: every point composed, checked, identified, and compared with what exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpt_opt.app.app import App
from gpt_opt.config.inputs import AGAIN, changed_since
from gpt_opt.config.remember import Remembered
from gpt_opt.errors import ConfigError, Problem, SweepError
from gpt_opt.plan.compose.composer import Composed
from gpt_opt.plan.dag import Origin, Parent, origins, start_problems
from gpt_opt.plan.estimate import CostEstimate, Samples, Work, estimate
from gpt_opt.plan.existing import Nearest, Status, nearest_run, status_of
from gpt_opt.plan.findings import Findings
from gpt_opt.plan.former_runs import FormerRuns, former_runs
from gpt_opt.plan.metrics import RunMetrics, missing_metric, result_metrics
from gpt_opt.plan.resources import SweepResources
from gpt_opt.plan.validate import PointChecker
from gpt_opt.records.choices import Choice
from gpt_opt.records.code import Code, code_in
from gpt_opt.records.former_choices import former_choices
from gpt_opt.records.planned_configs import Change, ConfigChanges
from gpt_opt.records.provenance import Inputs, inputs_in, read_provenance, recorded_inputs
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.sweep_dir import SweepRun, Workload, active
from gpt_opt.sweep.grid import load_grid
from gpt_opt.sweep.json_file import read_json
from gpt_opt.sweep.model import Grid, Resources, Space, Stage
from gpt_opt.sweep.overrides import target, to_override
from gpt_opt.sweep.points import count, points, values_by_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(SweepRun):
    """One distinct run of a plan; its `shape` is an index into the shapes of the plan.

    Attributes:
        point: Index of the first point of the grid that gives it.
        resources: What it needs from the cluster.
        status: What starting it would mean.
        step: Optimizer steps done.
        changed: Which files and modules have changed since, in words; "" where none has.
        code: What a done run was made with; None where that is not known.
        workload: What is known of its time; the seconds of a step are in `Plan.step_s`.
    """

    point: int
    resources: Resources
    status: Status
    step: int
    changed: str = ""
    code: Code | None = None
    workload: Workload

    @property
    def change(self) -> str:
        """What the changes mean for a run that is started again; "" where nothing has changed."""
        if not self.changed:
            return ""
        if self.status is Status.DONE:
            return f"{self.changed}: {AGAIN}"
        return f"{self.changed}: only with weights and data as they were it goes on, {AGAIN}"


@dataclass(frozen=True)
class Plan:
    """What a sweep file asks for.

    Attributes:
        grid: The sweep file.
        points: Number of points.
        runs: Distinct runs, in the order of their first points.
        counted: Those that will be made: of several among which one will be chosen, the first stands for all.
        duplicates: Index of a point to the index of the earlier point with the same config.
        uncounted: Keys in which such points differ although they change no result, so that only the first one's count.
        configs: For each run, how its config differs from that of the first; see `records.planned_configs`.
        costs: What the runs that remain will cost, by what a run needs.
        stage_costs: The same by the name of the stage.
        cost: What all of them will cost.
        step_s: Seconds of a step of each workload of which there are finished runs.
        former: Runs of earlier submissions of this sweep that are none of it.
        choices: Which of several runs is started from, where an earlier submission has decided it; by name.
        code: The code that runs are made with now.
        notes: What the application says of the sweep.
        warnings: What of the sweep file may be meant otherwise.
        workload: What makes up the workload of a run, for people.
    """

    grid: Grid
    points: int
    runs: tuple[Run, ...]
    counted: tuple[Run, ...]
    duplicates: dict[int, int]
    uncounted: tuple[str, ...]
    configs: tuple[Sequence[Change], ...]
    costs: Mapping[Resources, CostEstimate]
    stage_costs: Mapping[str, CostEstimate]
    cost: CostEstimate
    step_s: Mapping[str, float]
    former: FormerRuns
    choices: Mapping[str, Choice]
    code: Code
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    workload: str

    @property
    def shapes(self) -> tuple[Resources, ...]:
        """The different needs of the runs, in the order of the runs; each has an allocation of its own."""
        return tuple(self.costs)

    def count(self, status: Status) -> int:
        """Returns the number of runs with a status."""
        return sum(run.status is status for run in self.counted)

    def changes(self) -> list[str]:
        """Returns a line for each set of inputs that have changed since runs were made with them."""
        found = Counter((run.status is Status.DONE, run.change) for run in self.runs if run.changed)
        return [f"{count} {'done' if done else 'started'}: {change}" for (done, change), count in found.items()]


class Planner:
    """Plans sweeps of one application.

    Args:
        app: The application.
    """

    def __init__(self, app: App) -> None:
        app.register()
        self._app, self._checker = app, PointChecker(app)
        self._experiments: dict[str, tuple[str, ...]] = {}

    def plan(
        self,
        file: Path,
        extra: Sequence[str] = (),
        slots: int = 1,
        sweeps: Path = Path("sweeps"),
        flags: Mapping[str, Any] = MappingProxyType({}),
    ) -> Plan:
        """Plans a sweep file; writes nothing.

        Args:
            file: The sweep file.
            extra: Override strings for every point, applied last.
            slots: Runs of one shape at a time, for the cost estimate.
            sweeps: Folder of submitted sweeps, where earlier plans lie.
            flags: Resources that beat those of file and config, by name; None says nothing.

        Raises:
            SweepError: If the file is wrong.
            ConfigError: If points are wrong; all problems of all points, equal ones once with a count.
        """
        _require_sweep_first(file, extra)
        draft = _Draft(self._app, load_grid(file), flags)
        for stage in draft.grid.stages:
            self._add_stage(draft, stage, extra)
            if (draft.findings.any or draft.start_problems) and draft.grid.is_staged:
                break  # what comes after would start from runs that cannot be
        return self._plan(draft, slots, sweeps)

    def plan_points(
        self,
        name: str,
        lists: Sequence[Sequence[str]],
        sweeps: Path = Path("sweeps"),
        flags: Mapping[str, Any] = MappingProxyType({}),
    ) -> Plan:
        """Plans points that are given as override strings, as `plan` does those of a file.

        Args:
            name: Of the sweep.
            lists: The override strings of every point.
            sweeps: Folder of submitted sweeps, where earlier plans lie.
            flags: Resources that beat those of the config, by name; None says nothing.

        Raises:
            ConfigError: If points are wrong; all problems of all points, equal ones once with a count.
        """
        stage = Stage("", Space())
        draft = _Draft(self._app, Grid(name, (stage,)), flags)
        self._add_stage(draft, stage, (), lists)
        return self._plan(draft, 1, sweeps)

    def _plan(self, draft: _Draft, slots: int, sweeps: Path) -> Plan:
        """Returns the plan of a draft that has all of its points."""
        grid = draft.grid
        problems = [*draft.start_problems, *draft.findings.report(draft.points), *draft.resource_problems()]
        if problems := problems or draft.metric_problems() or self._never_the_same(draft.runs):
            located = _located(problems, Path(grid.source)) if grid.source else problems
            raise ConfigError(located, ", nothing was started")
        self._checker.warn_of_elsewhere()
        choices = former_choices(sweeps / grid.name, draft.runs)
        made = active(draft.runs, {name: choice.parent for name, choice in choices.items()})
        counted = tuple(run for run in draft.runs if run.index in made)
        samples = Samples(self._app, draft.roots)

        def cost(runs: Iterable[Run]) -> CostEstimate:
            return estimate([draft.work[run.index] for run in runs if run.index in draft.work], samples, slots)

        return Plan(
            grid=grid,
            points=draft.points,
            runs=tuple(draft.runs),
            counted=counted,
            duplicates=draft.duplicates,
            uncounted=tuple(sorted(draft.uncounted)),
            configs=tuple(draft.configs),
            costs={shape: cost(run for run in counted if run.resources == shape) for shape in draft.shapes},
            stage_costs={stage.name: cost(run for run in counted if run.stage == stage.name) for stage in grid.stages},
            cost=cost(counted),
            step_s=samples.known(run.workload.name for run in counted),
            former=former_runs(sweeps / grid.name, draft.runs, self.config, self._app.identity),
            choices=choices,
            code=self._app.code(),
            notes=tuple(self._app.notes()),
            warnings=tuple(draft.warnings),
            workload=self._app.workload_words,
        )

    def _add_stage(
        self, draft: _Draft, stage: Stage, extra: Sequence[str], given: Sequence[Sequence[str]] | None = None
    ) -> None:
        """Composes and checks the points of a stage, or those that are given, and adds its runs to the draft."""
        parents = draft.parents(stage)
        draft.check_start(stage, parents)
        needs = draft.needs(stage)
        placed, asked = tee(_placed(stage, origins(stage, parents, extra, self._app.start), extra, given))
        results = self._checker.compose_many((overrides for _, _, overrides in asked), draft.planned)
        for (origin, number, _), result in zip(placed, results, strict=True):
            problems = self._checker.problems(result)
            if not problems and isinstance(result, Composed):
                problems = list(self._app.not_in_sweeps(result.config))
                if draft.grid.source:
                    problems += [*_of_hydra(result.overrides), *self._own_sweep(result.overrides)]
                resources, unfit = self._needs(needs, result.config)
                problems += unfit
                if not problems:
                    point = self._by_reference(result)
                    problems = draft.add(stage, origin, number, point, resources, self._checker.memo)
            draft.findings.add(problems, draft.points)
            draft.points += 1

    def _own_sweep(self, overrides: Sequence[str]) -> Iterator[Problem]:
        """Refuses an experiment that is a sweep itself, of which the sweep file does not give every key."""
        given = {target(text.partition("=")[0]) for text in overrides}
        for text in overrides:
            group = target(text).partition("=")[0]
            if group in self._app.experiments:
                if text not in self._experiments:
                    hydra = self._checker.command_line([text]).hydra
                    self._experiments[text] = tuple((hydra.sweeper.get("params") or {}) if hydra else ())
                if ignored := [key for key in self._experiments[text] if target(key) not in given]:
                    problem = f"{text} is a sweep of its own over {', '.join(ignored)}, which a sweep file does not run"
                    yield Problem(group, problem, f"give the values in grid, or: {self._app.sweep_hint(text)}")

    def _never_the_same(self, runs: Sequence[Run]) -> list[Problem]:
        """Returns the keys to which resolvers of the application give another value each time they are called."""
        if not runs or not self._app.pure_resolvers - {"hydra", "now"}:
            return []
        composer, first = self._checker.composer, runs[0].overrides
        pairs = self._app.identity.differences(composer.compose(first).config, composer.again(first))
        problem = "must not be another value each time it is resolved, so that no run is found again, but was"
        fix = "add it to exclude of [identity], if it changes no result"
        return [Problem(key, f"{problem} {there!r} and is {here!r}", fix) for key, (there, here) in pairs.items()]

    def nearest(self, overrides: Sequence[str]) -> Nearest | None:
        """Returns the existing run that is nearest to a point of a plan, None when there is no run."""
        return nearest_run(self._app, self.config(overrides))

    def config(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Returns the resolved config of one point of a plan."""
        return self._app.normalized(self._checker.composer.compose(overrides).config)

    def _needs(self, needs: SweepResources, config: Mapping[str, Any]) -> tuple[Resources, list[Problem]]:
        """Returns what a point needs, and what is wrong with that."""
        try:
            resources = needs.of(config)
        except ConfigError as error:
            return Resources(), list(error.problems)
        return resources, list(self._app.misfits(config, resources))

    def _by_reference(self, point: Composed) -> Composed:
        """Returns a point whose overrides name a run to start from by its id, as its config does, and not by a path."""
        names = {key: str(found) for key, found in self._app.references(point.config, self._checker.memo)}
        if not names:
            return point
        keys = [text.partition("=")[0] for text in point.overrides]
        texts = (
            f"{key}={names[target(key)]}" if target(key) in names else text
            for key, text in zip(keys, point.overrides, strict=True)
        )
        return replace(point, overrides=tuple(texts))


def _of_hydra(overrides: Sequence[str]) -> Iterator[Problem]:
    """Refuses overrides that say how Hydra starts runs."""
    for text in overrides:
        if target(text).startswith(_OF_HYDRA):
            problem = "must not be in a sweep: gptopt starts its runs and chooses their directories"
            yield Problem(target(text.partition("=")[0]), problem, "leave it out")


_OF_HYDRA = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
"""Keys (and all that begin with them) that say how Hydra starts runs."""


def _located(problems: Sequence[Problem], file: Path) -> list[Problem]:
    """Returns problems of config keys with the line of the sweep file that gives the key, where one does."""
    lines = {target(key): line for key, line in read_json(file).key_lines().items()}
    located = []
    for problem in problems:
        line = lines.get(target(problem.where.partition("=")[0]))
        where = f"{file}:{line} {problem.where}" if line is not None else problem.where
        located.append(Problem(where, problem.message, problem.fix))
    return located


def _placed(
    stage: Stage, starts: Sequence[Origin], extra: Sequence[str], given: Sequence[Sequence[str]] | None
) -> Iterator[tuple[Origin, int, list[str]]]:
    """Yields for every point of a stage what it starts from, its number in the stage and its override strings."""
    total = count(stage.space) if given is None else len(given)
    for start in starts:
        for index, overrides in enumerate(override_lists(stage.space, extra) if given is None else given):
            yield start, start.number * total + index, [*start.inherited, *overrides, *start.start]


class _Draft:
    """A plan while its points come in.

    Args:
        app: What the runs are of.
        grid: The sweep.
        flags: Resources that beat those of the file and of the config, by name.
    """

    def __init__(self, app: App, grid: Grid, flags: Mapping[str, Any]) -> None:
        self.app, self.grid, self._flags = app, grid, flags
        self.findings = Findings()
        self.points = 0
        self.runs: list[Run] = []
        self.shapes: dict[Resources, int] = {}
        self.duplicates: dict[int, int] = {}
        self.uncounted: set[str] = set()
        self.configs: list[Sequence[Change]] = []
        self.metrics: list[RunMetrics] = []
        self.start_problems: list[Problem] = []
        self.warnings = list(_interpolations(grid))
        self.work: dict[int, Work] = {}
        self.roots: set[Path] = set()
        self.planned: dict[str, Mapping[str, Any]] = {}
        self._needs: dict[str, SweepResources] = {}
        self._stages: dict[str, dict[str, int]] = {}
        self._first: dict[str, tuple[int, frozenset[str], Resources, int]] = {}
        self._choices: dict[int | None, frozenset[tuple[str, int | None]]] = {}
        self._finder = app.finder()
        self._changes = ConfigChanges(app.identity)
        chooses = any(stage.start is not None and stage.start.best is not None for stage in grid.stages)
        self._names_metrics = grid.metric is not None or chooses

    def needs(self, stage: Stage) -> SweepResources:
        """Returns what finds the needs of the points of a stage."""
        return self._needs.setdefault(stage.name, SweepResources(stage.resources, self._flags, self.app.resources))

    def resource_problems(self) -> list[Problem]:
        """Returns where points that are one run ask for different things."""
        return [problem for needs in self._needs.values() for problem in needs.problems()]

    def check_start(self, stage: Stage, parents: Sequence[Parent]) -> None:
        """Notes what is wrong with how a stage chooses the runs that it starts from."""
        best = None if stage.start is None else stage.start.best
        candidates = [self.metrics[parent.index] for parent in parents] if best is not None else []
        missing = None if best is None else missing_metric(best.metric, candidates, decides=True)
        self.start_problems += start_problems(stage, parents, self.app.start, missing)
        if missing is not None and not missing.certain:
            self.warnings.append(f"stage {stage.name}: from: best: {missing.doubt}")

    def metric_problems(self) -> list[Problem]:
        """Returns that no run has the metric of the sweep file; where one may have it, that is a warning."""
        metric = self.grid.metric
        if metric is None or metric.name == "time_s":  # which summary.json has beside its metrics
            return []
        missing = missing_metric(metric.name, self.metrics, decides=False)
        if missing is None:
            return []
        if missing.certain:
            return [Problem("metric", missing.message, missing.fix)]
        self.warnings.append(f"metric: {missing.doubt}")
        return []

    def parents(self, stage: Stage) -> list[Parent]:
        """Returns the runs that a stage starts from, each once."""
        start = stage.start
        runs = [] if start is None else [self.runs[i] for i in self._stages.get(start.stage, {}).values()]
        return [Parent(run.index, run.number, run.run_id, run.overrides, self.planned[run.run_id]) for run in runs]

    def add(
        self, stage: Stage, origin: Origin, number: int, composed: Composed, resources: Resources, memo: Remembered
    ) -> list[Problem]:
        """Adds the next point, which has no problems.

        Args:
            stage: Its stage.
            origin: What it starts from.
            number: Its number in the stage.
            composed: Its config.
            resources: What it needs.
            memo: What was found for other points of the request.

        Returns:
            What is wrong with it beside the others.
        """
        point = self.points
        config, name = composed.config, self.app.identity.run_id(composed.config, memo)
        entry = (point, frozenset(composed.overrides), resources, len(self.runs))
        first, overrides, needed, index = self._first.setdefault(name, entry)
        choices = self._choices.get(origin.parent, frozenset())
        choices |= {(origin.choice, origin.parent)} if origin.choice else frozenset()
        if self._choices.setdefault(index, choices) != choices:
            return [_shared(stage, self.runs[index])]
        if self.grid.is_staged:
            self._stages.setdefault(stage.name, {})[name] = index
            self.planned.setdefault(name, config)
        if first != point:
            self.needs(stage).add_same_run(first, needed, point, resources)
            self.duplicates[point] = first
            keys = {target(text.partition("=")[0]) for text in overrides.symmetric_difference(composed.overrides)}
            self.uncounted.update(key for key in keys if not self.app.identity.has(key))
            return []
        self.configs.append(self._changes.add(config))
        folder, exists = self._finder.find(config, name, composed.overrides)
        paths = RunPaths(Path(folder))
        status, step = status_of(self.app, paths) if exists else (Status.NEW, 0)
        before, code = _made_with(paths, status)
        changed = changed_since(before, self.app.inputs(config, memo)) if status is not Status.NEW else ""
        workload = self._workload(config, memo)
        if self._names_metrics:
            result = result_metrics(paths) if status is Status.DONE else None
            self.metrics.append(RunMetrics(memo.of(self.app.metrics, config), result))
        run = Run(
            index,
            name,
            folder,
            composed.overrides,
            self.shapes.setdefault(resources, len(self.shapes)),
            stage.name,
            number,
            origin.parent,
            origin.choice,
            workload=workload,
            point=point,
            resources=resources,
            status=status,
            step=step,
            changed=changed,
            code=code,
        )
        self.runs.append(run)
        if status in (Status.NEW, Status.RESUME, Status.FAILED):
            self.work[index] = Work(workload.name, self.app.remaining(config, step), resources)
            if (folder_of_runs := self.app.outputs(config)) is not None:
                self.roots.add(folder_of_runs)
        return []

    def _workload(self, config: Mapping[str, Any], memo: Remembered) -> Workload:
        """Returns what is known of the time of a run."""
        name = memo.of(self.app.workload, config)
        steps, save_every = self.app.steps(config)
        if save_every is not None:
            return Workload(name, steps, save_every)
        end = None if self.app.program.checkpoints else 1  # which nobody can go on from before
        return Workload(name, 1, end, whole=True)


def _shared(stage: Stage, run: Run) -> Problem:
    """Returns the problem of a run that two stages have, and that a choice decides on in one of them."""
    problem = f"must not share runs with stage {run.stage}, since a choice decides which of them are made"
    return Problem(f"stage {stage.name}", problem, "give one of the two another setting")


def _made_with(paths: RunPaths, status: Status) -> tuple[Inputs, Code | None]:
    """Returns what an existing run was made with: inputs and, of one that is done, code."""
    if status is Status.DONE:
        record = read_provenance(paths)
        return inputs_in(record), code_in(record)
    return {} if status is Status.NEW else recorded_inputs(paths), None


def override_lists(space: Space, extra: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yields the override strings of every point of a space; each distinct parameter value is written once."""
    texts: dict[tuple[str, str], str] = {}
    for point in points(space):
        overrides = []
        for key, value in point.items:
            # repr tells 1, 1.0 and true apart, which are equal as dictionary keys.
            name = (key, repr(value))
            text = texts.get(name)
            if text is None:
                text = texts[name] = to_override(key, value)
            overrides.append(text)
        overrides.extend(extra)
        yield overrides


def _interpolations(grid: Grid) -> Iterator[str]:
    """Yields which keys of a sweep file have values that look like interpolations."""
    values = ((key, found) for stage in grid.stages for key, found in values_by_key(stage.space).items())
    if keys := list(dict.fromkeys(key for key, found in values if any("${" in text for text in found))):
        yield f"${{...}} in {', '.join(keys)} is text: values of a sweep file are never interpolated"


_NO_SWEEPS = (".sh", ".bash", ".sbatch", ".slurm", ".py", ".yaml", ".yml")


def _require_sweep_first(file: Path, extra: Sequence[str]) -> None:
    """Refuses another file in the place of the sweep file or of an override, as `SCRIPT.sh SWEEP.json` has it.

    Raises:
        SweepError: Shows the form.
    """
    words = {word: Path(word).suffix for word in (str(file), *extra) if "=" not in word or word == str(file)}
    fix = f"the form is: {next((word for word, end in words.items() if end == '.json'), 'SWEEP.json')} [overrides]"
    if file.suffix in _NO_SWEEPS:
        raise SweepError([Problem(str(file), "must be a sweep file (.json), but is another", fix)])
    strays = [word for word in extra if words.get(word) in (*_NO_SWEEPS, ".json")]
    if strays:
        message = "after the sweep file come overrides (key=value), but this is a file"
        raise SweepError([Problem(word, message, fix) for word in strays])
