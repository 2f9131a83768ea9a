"""Frees the disk that the checkpoints of a sweep take: those of runs that are complete, never their results."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gpt_opt.dispatch.stages import candidates
from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.records.choices import final_metric
from gpt_opt.records.claim import RunHeld, acquire
from gpt_opt.records.metrics import USUAL, comparable, greater_is_better
from gpt_opt.records.planned_configs import read_changes
from gpt_opt.records.run_dir import RunFolders, RunPaths
from gpt_opt.records.run_reference import OUTPUT_LEVELS
from gpt_opt.records.state import State, read_run
from gpt_opt.records.sweep_dir import Sweep, SweepRun, active, submissions, submitted_names

_REFERENCE = re.compile(r"(?:\brun:|-)([0-9a-f]{12})(?![0-9A-Za-z])")
"""A run in a config or an override: by its id, or by its directory, whose name ends in it."""


class Metric(NamedTuple):
    """What says which of two runs is better: its name, and whether greater values are."""

    name: str
    greater_is_better: bool


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
        checkpoints: Folders and files.
        size: Bytes of its checkpoints.
        rank: How good it is; None where it has no metric that says so, or is not complete.
        kept: Why its checkpoints are kept; "" where they are to be removed.
    """

    run: SweepRun
    paths: RunPaths
    checkpoints: tuple[Path, ...]
    size: int
    rank: Rank | None
    kept: str


def metrics_of(sweep: Sweep, name: str | None) -> list[Metric]:
    """Returns the metrics that say which runs of a stage are the best: the first of them that its runs have.

    The metric that is asked for comes first; where none is, that of the sweep file.

    Raises:
        ConfigError: If nothing says of that metric whether more is better.
    """
    own = sweep.submission().metric
    usual = [Metric(item, bool(greater_is_better(item))) for item in USUAL]
    if own is not None and name in (None, own["name"]):
        return [Metric(own["name"], own["goal"] == "maximize"), *usual]
    if name is None:
        return usual
    greater = greater_is_better(name)
    if greater is None:
        problem = f"must be a metric of which it is known whether more is better, but is {name!r}"
        given = f"take one of {', '.join(comparable())}"
        fix = given + ', or say it in the sweep file: "metric": {"name": ..., "goal": ...}'
        raise ConfigError([Problem("--metric", problem, fix)])
    return [Metric(name, greater), *usual]


def inspect(sweep: Sweep, keep_best: int, metrics: Sequence[Metric]) -> list[SavedRun]:
    """Returns the runs of a sweep that have checkpoints, each with whether they are kept.

    Kept are those of the best runs of each stage, of runs that are not complete, and of runs that others start from: in
    any sweep beside this one, or in an output folder of one.

    Args:
        sweep: The sweep.
        keep_best: How many runs of each stage are kept for their metric.
        metrics: What says which are the best: the first that a stage has.

    Raises:
        GptOptError: If what other runs start from cannot be read.
    """
    folders, program = RunFolders(), sweep.submission().program
    places = {run: run.paths(folders) for run in sweep.runs}
    found = {run: tuple(program.checkpoints_of(paths)) for run, paths in places.items()}
    saved = {run: paths for run, paths in places.items() if found[run]}
    states = {run: read_run(paths) for run, paths in saved.items()}
    complete = {run: paths for run, paths in saved.items() if states[run].state is State.COMPLETED}
    starts, ranked = _starts(sweep), _ranked(complete, metrics)

    def why(run: SweepRun) -> str:
        if any(path.is_symlink() for path in found[run]) and not program.checkpoints:
            return "is a link"
        if run not in complete:
            return f"is {states[run].state}" + ("" if states[run].is_owned else ": goes on from them")
        if run.run_id in starts:
            return f"{starts[run.run_id]} starts from it"
        if run not in ranked:
            of_others = (rank.metric for other, rank in ranked.items() if other.stage == run.stage)
            return f"has no {next(of_others, metrics[0].name)}"
        place = ranked[run].place
        return "" if place is None or place > keep_best else f"best {place}"

    return [
        SavedRun(run, paths, found[run], sum(map(_size, found[run])), ranked.get(run), why(run))
        for run, paths in saved.items()
    ]


def _ranked(complete: Mapping[SweepRun, RunPaths], metrics: Sequence[Metric]) -> dict[SweepRun, Rank]:
    """Returns the ranks of runs in their stages, by the first metric that runs of a stage have."""
    found: dict[SweepRun, Rank] = {}
    for stage in dict.fromkeys(run.stage for run in complete):
        runs = {run: paths for run, paths in complete.items() if run.stage == stage}
        for name, greater in metrics:
            if known := _values(runs, name):
                finite = [run for run, value in known.items() if math.isfinite(value)]
                order = sorted(finite, key=known.__getitem__, reverse=greater)
                places = {run: place for place, run in enumerate(order, start=1)}
                found |= {run: Rank(name, value, places.get(run)) for run, value in known.items()}
                break
    return found


def _values(runs: Mapping[SweepRun, RunPaths], metric: str) -> dict[SweepRun, float]:
    """Returns the final values of a metric, of the runs that have it."""
    values = {run: final_metric(paths, metric) for run, paths in runs.items()}
    return {run: value for run, value in values.items() if value is not None}


def remove(
    sweep: Sweep, runs: Iterable[SavedRun], keep_best: int, metrics: Sequence[Metric]
) -> tuple[list[SavedRun], list[str]]:
    """Removes the checkpoints of runs, but of those that by now are to be kept.

    A run is claimed meanwhile, so that nothing starts it. The arguments are those of `inspect` and what it returned.

    Returns:
        The runs whose checkpoints are gone, and a line for each of the others that were to go: why they are not.
    """
    now = {item.run: item.kept for item in inspect(sweep, keep_best, metrics)}
    gone, left = [], []
    for item in (item for item in runs if not item.kept):
        reason = now.get(item.run, "has none any more")
        try:
            if not reason:
                with acquire(item.paths):
                    for path in item.checkpoints:
                        _remove(path)
                gone.append(item)
        except (OSError, RunHeld) as error:
            reason = str(error)
        if reason:
            left.append(f"{item.run.name}: {reason}")
    return gone, left


def _starts(sweep: Sweep) -> dict[str, str]:
    """Returns the ids of runs that others start from, each with the name of one of these.

    Raises:
        GptOptError: If something that says so cannot be read.
    """
    found: dict[str, str] = {}
    outputs = set()
    for parent in submitted_names(sweep.root.parent.parent):
        for other in submissions(parent, _refuse):
            here = other.root.parent == sweep.root.parent
            if not other.submission().program.folder:  # an application has its runs elsewhere, and no references
                outputs |= {os.path.dirname(run.run_dir) for run in other.runs}
            for name, run_id in _starts_in(other):
                found.setdefault(run_id, name if here else f"{other.label} {name}")
    for folder in {Path(name).parents[OUTPUT_LEVELS - 1] for name in outputs}:
        for config in folder.glob("/".join(["*"] * (OUTPUT_LEVELS + 1)) + "/config.json"):
            for run_id in _REFERENCE.findall(config.read_text(encoding="utf-8", errors="replace")):
                if not config.parent.name.endswith(run_id):
                    found.setdefault(run_id, config.parent.name)
    return found


def _refuse(error: Exception) -> None:
    raise GptOptError(f"what its runs start from is not known, so nothing is removed: {error}") from error


def _starts_in(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Yields the name of each run that is planned, or was made, with the id of one that it starts from, or may."""
    runs, chosen = sweep.runs, sweep.chosen()
    made, possible = active(runs, chosen), candidates(runs)
    names: dict[str, str] = {}
    for run in (run for run in runs if run.index in made):
        names[run.run_id] = run.name
        parents = possible[run.index] if run.parent is None or run.choice not in chosen else {run.parent}
        for index in parents:
            yield run.name, runs[index].run_id
        if run.parent is None:
            yield from ((run.name, found) for text in run.overrides for found in _REFERENCE.findall(text))
    planned = read_changes(sweep.planned_configs)  # a sweep of a version before has none
    if planned.left_out:
        raise GptOptError(
            f"{sweep.planned_configs} is damaged, so what its runs start from is not known and nothing is removed; "
            f"gptopt submit {sweep.submission().file or 'FILE'} writes it again"
        )
    for number, (run_id, changes) in enumerate(planned.records):
        if number == 0 or run_id in names:  # the others differ from the first line, and say in what
            texts = _REFERENCE.findall(json.dumps(changes))
            yield from ((names.get(run_id, runs[0].name), found) for found in texts if found != run_id)


def _remove(path: Path) -> None:
    """Removes a folder or a file that is still there, of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,)
    return sum(file.lstat().st_size for file in files if not file.is_dir())
