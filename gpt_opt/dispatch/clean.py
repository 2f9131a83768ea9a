"""Frees the disk that the checkpoints of a sweep take: those of runs that are complete, never their results."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt_opt.dispatch.stages import candidates
from gpt_opt.dispatch.submit import leave_out
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.records.choices import active, final_metric
from gpt_opt.records.claim import RunHeld, acquire
from gpt_opt.records.io import read_lines
from gpt_opt.records.metrics import EVALUATION, comparable, greater_is_better
from gpt_opt.records.run_dir import RunFolders, RunPaths
from gpt_opt.records.run_reference import OUTPUT_LEVELS
from gpt_opt.records.state import State, read_run
from gpt_opt.records.sweep_dir import Sweep, SweepRun, submissions

LOSS = f"{EVALUATION}loss"
"""What says which runs are the best where nothing else does."""

_REFERENCE = re.compile(r"\brun:([0-9a-f]{12})\b")


@dataclass(frozen=True)
class Rank:
    """How good a complete run is among those of its stage.

    Attributes:
        metric: What says so.
        value: Its final value.
        place: From 1; None of a diverged run.
    """

    metric: str
    value: float
    place: int | None


@dataclass(frozen=True)
class SavedRun:
    """A run of a sweep that has checkpoints.

    Attributes:
        run: The run.
        paths: Its files.
        size: Bytes of its checkpoints.
        rank: How good it is; None where it has no metric that says so, or is not complete.
        kept: Why its checkpoints are kept; "" where they are to be removed.
    """

    run: SweepRun
    paths: RunPaths
    size: int
    rank: Rank | None
    kept: str


def metric_of(sweep: Sweep, name: str | None) -> dict[str, str]:
    """Returns name and goal of the metric that says which runs are the best.

    Args:
        sweep: The sweep; where no metric is asked for its own is taken, or `LOSS` where it has none.
        name: The metric that is asked for.

    Raises:
        ConfigError: If nothing says of that metric whether more is better.
    """
    own = sweep.submission().metric
    if own is not None and name in (None, own["name"]):
        return own
    name = name or LOSS
    greater = greater_is_better(name)
    if greater is None:
        problem = f"must be a metric of which it is known whether more is better, but is {name!r}"
        given = f"take one of {', '.join(comparable())}"
        fix = given + ', or say it in the sweep file: "metric": {"name": ..., "goal": ...}'
        raise ConfigError([Problem("--metric", problem, fix)])
    return {"name": name, "goal": "maximize" if greater else "minimize"}


def inspect(sweep: Sweep, keep_best: int, metric: Mapping[str, str]) -> list[SavedRun]:
    """Returns the runs of a sweep that have checkpoints, each with whether they are kept.

    Kept are those of the best runs of each stage, of runs that are not complete, and of runs that others start from: in
    any sweep beside this one, or in the output folder.

    Args:
        sweep: The sweep.
        keep_best: How many runs of each stage are kept for their metric.
        metric: Its `name` and `goal`; in a stage that does not have it `LOSS`.
    """
    folders = RunFolders()
    saved = {run: paths for run in sweep.runs if (paths := run.paths(folders)).checkpoints.is_dir()}
    states = {run: read_run(paths) for run, paths in saved.items()}
    complete = {run: paths for run, paths in saved.items() if states[run].state is State.COMPLETED}
    starts, ranked = _starts(sweep, saved.values()), _ranked(complete, metric)

    def why(run: SweepRun) -> str:
        if run not in complete:
            return f"is {states[run].state}" + ("" if states[run].is_owned else ": goes on from them")
        if run.run_id in starts:
            return f"{starts[run.run_id]} starts from it"
        if run not in ranked:
            return f"has no {metric['name']}"
        place = ranked[run].place
        return "" if place is None or place > keep_best else f"best {place}"

    return [SavedRun(run, paths, _size(paths.checkpoints), ranked.get(run), why(run)) for run, paths in saved.items()]


def _ranked(complete: Mapping[SweepRun, RunPaths], metric: Mapping[str, str]) -> dict[SweepRun, Rank]:
    """Returns the ranks of runs in their stages; a stage of which no run has the metric is ranked by `LOSS`."""
    found: dict[SweepRun, Rank] = {}
    for stage in dict.fromkeys(run.stage for run in complete):
        runs = {run: paths for run, paths in complete.items() if run.stage == stage}
        name, goal = metric["name"], metric["goal"]
        if not (known := _values(runs, name)):
            name, goal = LOSS, "minimize"
            known = _values(runs, name)
        finite = [run for run, value in known.items() if math.isfinite(value)]
        order = sorted(finite, key=known.__getitem__, reverse=goal == "maximize")
        places = {run: place for place, run in enumerate(order, start=1)}
        found |= {run: Rank(name, value, places.get(run)) for run, value in known.items()}
    return found


def _values(runs: Mapping[SweepRun, RunPaths], metric: str) -> dict[SweepRun, float]:
    """Returns the final values of a metric, of the runs that have it."""
    values = {run: final_metric(paths, metric) for run, paths in runs.items()}
    return {run: value for run, value in values.items() if value is not None}


def remove(sweep: Sweep, runs: Iterable[SavedRun], keep_best: int, metric: Mapping[str, str]) -> list[SavedRun]:
    """Removes the checkpoints of runs, but of those that by now are to be kept.

    A run is claimed meanwhile, so that nothing starts it.

    Args:
        sweep: The sweep.
        runs: As `inspect` returned them; those that are kept are left alone.
        keep_best: As for `inspect`.
        metric: As for `inspect`.

    Returns:
        The runs whose checkpoints are gone.
    """
    still = {item.run for item in inspect(sweep, keep_best, metric) if not item.kept}
    gone = []
    for item in runs:
        if item.kept or item.run not in still:
            continue
        try:
            with acquire(item.paths):
                if read_run(item.paths).state is State.COMPLETED:
                    shutil.rmtree(item.paths.checkpoints)
                    gone.append(item)
        except RunHeld:
            continue
    return gone


def _starts(sweep: Sweep, saved: Iterable[RunPaths]) -> dict[str, str]:
    """Returns the ids of runs that others start from, each with the name of one of these."""
    found: dict[str, str] = {}
    for parent in sorted(sweep.root.parent.parent.iterdir()):
        for other in submissions(parent, leave_out):
            here = other.root.parent == sweep.root.parent
            for name, run_id in _starts_in(other):
                found.setdefault(run_id, name if here else f"{other.label} {name}")
    for outputs in {paths.root.parents[OUTPUT_LEVELS] for paths in saved}:
        for config in outputs.glob("/".join(["*"] * (OUTPUT_LEVELS + 1)) + "/config.json"):
            for run_id in _REFERENCE.findall(config.read_text(encoding="utf-8", errors="replace")):
                found.setdefault(run_id, config.parent.name)
    return found


def _starts_in(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Yields the name of each run that is planned, or was made, with the id of one that it starts from, or may."""
    runs, chosen = sweep.runs, sweep.chosen()
    made, possible = active(runs, chosen), candidates(runs)
    names: dict[object, str] = {}
    for run in (run for run in runs if run.index in made):
        names[run.run_id] = run.name
        parents = possible[run.index] if run.parent is None or run.choice not in chosen else {run.parent}
        for index in parents:
            yield run.name, runs[index].run_id
    for number, (run_id, text) in enumerate(read_lines(sweep.planned_configs, _references).records):
        if number == 0 or run_id in names:  # the others differ from the first line, and say in what
            yield from ((names.get(run_id, runs[0].name), found) for found in text)


def _references(record: Mapping[str, object]) -> tuple[object, list[str]]:
    return record["run_id"], _REFERENCE.findall(json.dumps(record))


def _size(folder: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
