"""From a sweep file to its plan: every point composed, checked, identified, and compared with what exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpt_opt.config.files import with_real_paths
from gpt_opt.config.inputs import AGAIN, changed_since, inputs_of
from gpt_opt.config.remember import Remembered
from gpt_opt.errors import ConfigError, Problem, SweepError
from gpt_opt.plan.compose.composer import Composed
from gpt_opt.plan.estimate import CostEstimate, Samples, Work, estimate, workload
from gpt_opt.plan.existing import Status, status_of
from gpt_opt.plan.findings import Findings
from gpt_opt.plan.resources import SweepResources, process_problems
from gpt_opt.plan.validate import PointChecker
from gpt_opt.records.code import Code, code_in
from gpt_opt.records.planned_configs import Change, ConfigChanges
from gpt_opt.records.provenance import Inputs, inputs_in, read_provenance, recorded_inputs
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.run_id import is_identity, run_id
from gpt_opt.records.sweep_dir import submissions
from gpt_opt.run.devices import sweep_device_problems
from gpt_opt.run.resolvers import RunFinder
from gpt_opt.sweep import Grid, load_grid, points, target, to_override
from gpt_opt.sweep.json_file import read_json
from gpt_opt.sweep.model import Resources


@dataclass(frozen=True, slots=True)
class Run:
    """One distinct run of a plan.

    Attributes:
        index: Its position among the distinct runs, from 0.
        point: Index of the first point of the grid that gives it.
        run_id: Hash of its config.
        run_dir: Where it lies, or will lie.
        overrides: Hydra override strings that give its config.
        resources: What it needs from the cluster.
        status: What starting it would mean.
        step: Optimizer steps done.
        changed: Which files and modules have changed since, in words; "" where none has.
        code: What a done run was made with; None where that is not known.
    """

    index: int
    point: int
    run_id: str
    run_dir: str
    overrides: tuple[str, ...]
    resources: Resources
    status: Status
    step: int
    changed: str = ""
    code: Code | None = None

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
        duplicates: Index of a point to the index of the earlier point with the same config.
        uncounted: Keys in which such points differ although they change no result, so that only the first one's count.
        configs: For each run, how its config differs from that of the first; see `records.planned_configs`.
        costs: What the runs that remain will cost, by what a run needs.
        cost: What all of them will cost.
        removed: Runs of earlier submissions of this sweep that are no longer in the grid: id to directory.
    """

    grid: Grid
    points: int
    runs: tuple[Run, ...]
    duplicates: dict[int, int]
    uncounted: tuple[str, ...]
    configs: tuple[Sequence[Change], ...]
    costs: Mapping[Resources, CostEstimate]
    cost: CostEstimate
    removed: dict[str, str]

    @property
    def shapes(self) -> tuple[Resources, ...]:
        """The different needs of the runs, in the order of the runs; each has an allocation of its own."""
        return tuple(self.costs)

    def count(self, status: Status) -> int:
        """Returns the number of runs with a status."""
        return sum(run.status is status for run in self.runs)

    def changes(self) -> list[str]:
        """Returns a line for each set of inputs that have changed since runs were made with them."""
        found = Counter((run.status is Status.DONE, run.change) for run in self.runs if run.changed)
        return [f"{count} {'done' if done else 'started'}: {change}" for (done, change), count in found.items()]


class Planner:
    """Plans sweep files against one config folder.

    Args:
        config_dir: The folder hydra_conf.
    """

    def __init__(self, config_dir: Path) -> None:
        self._checker = PointChecker(config_dir)
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
        grid = load_grid(file)
        return self.plan_points(grid, override_lists(grid, extra), slots, sweeps, flags)

    def plan_points(
        self,
        grid: Grid,
        lists: Iterable[Sequence[str]],
        slots: int = 1,
        sweeps: Path = Path("sweeps"),
        flags: Mapping[str, Any] = MappingProxyType({}),
    ) -> Plan:
        """Plans points that are given as override strings, as `plan` does those of a file.

        Args:
            grid: What the sweep is called and needs; its own points are not looked at.
            lists: The override strings of every point.
            slots: Runs of one shape at a time, for the cost estimate.
            sweeps: Folder of submitted sweeps, where earlier plans lie.
            flags: Resources that beat those of grid and config, by name; None says nothing.

        Raises:
            ConfigError: If points are wrong; all problems of all points, equal ones once with a count.
        """
        needs = SweepResources(grid.resources, flags)
        draft = _Draft(needs)
        for index, result in enumerate(self._checker.compose_many(lists)):
            problems = self._checker.problems(result)
            if not problems and isinstance(result, Composed):
                problems = [*_sweep_problems(result, bool(grid.source)), *self._own_sweep(result, grid)]
                resources, unfit = _needs(needs, result.config)
                problems += unfit
                if not problems:
                    draft.add(index, result, resources, self._checker.memo)
            draft.findings.add(problems, index)
            draft.points += 1
        if problems := [*draft.findings.report(draft.points), *needs.problems()]:
            located = _located(problems, Path(grid.source)) if grid.source else problems
            raise ConfigError(located, ", nothing was started")
        self._checker.warn_of_elsewhere()
        known = {run.run_id for run in draft.runs}
        earlier = (run for sweep in submissions(sweeps / grid.name) for run in sweep.runs)
        removed = {run.run_id: run.run_dir for run in earlier if run.run_id not in known}
        samples, runs = Samples(draft.roots), tuple(draft.runs)
        shapes = dict.fromkeys(run.resources for run in runs)
        return Plan(
            grid=grid,
            points=draft.points,
            runs=runs,
            duplicates=draft.duplicates,
            uncounted=tuple(sorted(draft.uncounted)),
            configs=tuple(draft.configs),
            costs={
                shape: estimate([work for work in draft.work if work.resources == shape], samples, slots)
                for shape in shapes
            },
            cost=estimate(draft.work, samples, slots),
            removed=removed,
        )

    def _own_sweep(self, point: Composed, grid: Grid) -> Iterator[Problem]:
        """Refuses an experiment that is a sweep itself, of which the sweep file does not give every key."""
        given = {target(text.partition("=")[0]) for text in point.overrides}
        for text in point.overrides if grid.source else ():
            if target(text).startswith("exp="):
                if text not in self._experiments:
                    hydra = self._checker.command_line([text]).hydra
                    self._experiments[text] = tuple((hydra.sweeper.get("params") or {}) if hydra else ())
                if ignored := [key for key in self._experiments[text] if target(key) not in given]:
                    problem = f"{text} is a sweep of its own over {', '.join(ignored)}, which a sweep file does not run"
                    yield Problem("exp", problem, "give the values in grid, or: python run_hydra.py -m " + text)

    def config(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Returns the resolved config of one point of a plan."""
        return with_real_paths(self._checker.composer.compose(overrides).config)


def _needs(needs: SweepResources, config: Mapping[str, Any]) -> tuple[Resources, list[Problem]]:
    """Returns what a point needs, and what is wrong with that."""
    try:
        resources = needs.of(config)
    except ConfigError as error:
        return Resources(), list(error.problems)
    return resources, list(process_problems(config, resources))


_OF_HYDRA = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
"""Keys (and all that begin with them) that say how Hydra starts runs."""


def _sweep_problems(point: Composed, from_file: bool) -> Iterator[Problem]:
    """Yields what a config may say but a run of a sweep would not do, or not as it was meant."""
    yield from sweep_device_problems(point.config)
    for key in ("dry_run", "rerun"):
        if point.config.get(key):
            problem = "must be false in a sweep, which starts every run that is not done, once"
            yield Problem(key, problem, f"leave it out; for a single run: python run_hydra.py ... {key}=true")
    for text in point.overrides if from_file else ():
        if target(text).startswith(_OF_HYDRA):
            problem = "must not be in a sweep: gptopt starts its runs and chooses their directories"
            yield Problem(target(text.partition("=")[0]), problem, "leave it out")


def _located(problems: Sequence[Problem], file: Path) -> list[Problem]:
    """Returns problems of config keys with the line of the sweep file that gives the key, where one does."""
    lines = {target(key): line for key, line in read_json(file).key_lines().items()}
    located = []
    for problem in problems:
        line = lines.get(target(problem.where.partition("=")[0]))
        where = f"{file}:{line} {problem.where}" if line is not None else problem.where
        located.append(Problem(where, problem.message, problem.fix))
    return located


class _Draft:
    """A plan while its points come in."""

    def __init__(self, needs: SweepResources) -> None:
        self.findings = Findings()
        self.points = 0
        self.runs: list[Run] = []
        self.duplicates: dict[int, int] = {}
        self.uncounted: set[str] = set()
        self.configs: list[Sequence[Change]] = []
        self.work: list[Work] = []
        self.roots: set[Path] = set()
        self._needs = needs
        self._first: dict[str, tuple[int, frozenset[str], Resources]] = {}
        self._finder = RunFinder()
        self._changes = ConfigChanges()

    def add(self, point: int, composed: Composed, resources: Resources, memo: Remembered) -> None:
        """Adds a point without problems."""
        config, name = composed.config, run_id(composed.config, memo)
        entry = (point, frozenset(composed.overrides), resources)
        first, overrides, needed = self._first.setdefault(name, entry)
        if first != point:
            self._needs.add_same_run(first, needed, point, resources)
            self.duplicates[point] = first
            keys = {target(text.partition("=")[0]) for text in overrides.symmetric_difference(composed.overrides)}
            self.uncounted.update(key for key in keys if not is_identity(key))
            return
        self.configs.append(self._changes.add(config))
        folder, exists = self._finder.find(config, name, composed.overrides)
        paths = RunPaths(Path(folder))
        status, step = status_of(paths) if exists else (Status.NEW, 0)
        before, code = _made_with(paths, status)
        changed = changed_since(before, inputs_of(config, memo)) if status is not Status.NEW else ""
        facts = (composed.overrides, resources, status, step, changed, code)
        self.runs.append(Run(len(self.runs), point, name, folder, *facts))
        if status in (Status.NEW, Status.RESUME, Status.FAILED):
            steps = config["training"]["training_params"]["max_steps"]
            remaining = steps if steps is None else max(0, steps - step)
            self.work.append(Work(memo.of(workload, config), remaining, resources))
            if "output_dir" in config["paths"]:
                self.roots.add(Path(config["paths"]["output_dir"]))


def _made_with(paths: RunPaths, status: Status) -> tuple[Inputs, Code | None]:
    """Returns what an existing run was made with: inputs and, of one that is done, code."""
    if status is Status.DONE:
        record = read_provenance(paths)
        return inputs_in(record), code_in(record)
    return {} if status is Status.NEW else recorded_inputs(paths), None


def override_lists(grid: Grid, extra: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yields the override strings of every point of a grid; each distinct parameter value is written once."""
    texts: dict[tuple[str, str], str] = {}
    for point in points(grid):
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
