"""Run directories into tidy DataFrames: `load_runs` has a row a run, `load_metrics` a row a run and step."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis import cache as caches
from analysis.cache import ABSENT, Cache, file_key, home_of
from analysis.curves import curve_of, metrics_frame, read_curves
from analysis.entries import Entries, joined, read_all
from analysis.files import flatten
from analysis.foreign import Foreign, foreign_row, read_foreign
from analysis.foreign.parts import Part
from analysis.frame import runs_frame
from analysis.run_rows import RunRow, id_in_name, read_run
from analysis.run_table import run_entries
from gpt_opt.errors import GptOptError
from gpt_opt.records.best_run import SWEEPS
from gpt_opt.records.planned_configs import read_planned_configs
from gpt_opt.records.run_dir import RunFolders, RunPaths, find_run_folders
from gpt_opt.records.state import State, StateUnreadable, read_state
from gpt_opt.records.sweep_dir import Sweep, SweepRun, active, find

log = logging.getLogger(__name__)

Where = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_OUTPUTS = 4
"""Folders from the directory of a planned run up to its output folder."""


class RunsNotFound(GptOptError):
    """A path to read runs from is not a directory."""


class _Found(NamedTuple):
    """A run directory.

    Attributes:
        real: Its real path.
        root: Real path of the folder in which it was looked for; None where it was given itself.
        foreign: Whether it is of a run that is not ours.
    """

    real: str
    root: str | None
    foreign: bool = False


@dataclass(frozen=True)
class _Kind:
    """What is read of runs.

    Attributes:
        name: What it is called in the cache.
        key: Returns what the files of a directory are now, all that are read.
        read: Reads some directories of ours.
        foreign: Makes the same of what is known of a run of others.
        least: Runs for which a process is worth while.
        is_large: Whether so much is kept of a run that each process writes its own part.
    """

    name: str
    key: Callable[[str], bytes]
    read: Callable[[Sequence[str]], Entries]
    foreign: Callable[[str, Part], Entries]
    least: int
    is_large: bool


def _run_key(folder: str) -> bytes:
    summary = file_key(f"{folder}/summary.json")
    # A run without a result has its latest metrics.
    last = file_key(f"{folder}/metrics.jsonl") if summary == ABSENT else b""
    return file_key(f"{folder}/config.json") + file_key(f"{folder}/state.json") + summary + last


_RUNS = _Kind(
    name="runs",
    key=_run_key,
    read=lambda folders: run_entries(list(map(read_run, folders))),
    foreign=lambda path, part: run_entries([foreign_row(path, part)]),
    least=400,
    is_large=False,
)
_METRICS = _Kind(
    name="metrics",
    key=lambda folder: file_key(f"{folder}/metrics.jsonl"),
    read=read_curves,
    foreign=lambda path, part: curve_of(path, part.curves, part.problems.found),
    least=100,
    is_large=True,
)


def _gather(kind: _Kind, found: Mapping[str, _Found]) -> Entries:
    """Reads runs in the order of `found`, or takes what is known of those that have not changed."""
    parts = [kind.read([])]
    roots = {item.root for item in found.values()}
    for home, runs in _homes(found).items():
        cache = Cache(home, kind.name, runs) if home and len(runs) >= caches.LEAST else None
        parts += _gather_group(kind, cache, runs, home in roots)
    others = {folder: read_foreign(folder) for folder, item in found.items() if item.foreign}
    parts += [kind.foreign(path, part) for runs in others.values() for path, part in runs.items()]
    return joined(parts, [path for folder in found for path in others.get(folder, [folder])])


def _homes(found: Mapping[str, _Found]) -> dict[str | None, dict[str, str]]:
    """Returns our runs by the folder that has their cache, each by its path below that."""
    homes: dict[tuple[str, str | None], str | None] = {}
    groups: dict[str | None, dict[str, str]] = {}
    for folder, item in found.items():
        if item.foreign:
            continue
        place = (item.real.rpartition("/")[0], item.root)
        if place not in homes:
            homes[place] = home_of(*place)
        home = homes[place]
        groups.setdefault(home, {})[item.real[len(home) + 1 :] if home else item.real] = folder
    return groups


def _gather_group(kind: _Kind, cache: Cache | None, runs: Mapping[str, str], whole: bool) -> list[Entries]:
    """Reads the runs that have one cache."""
    if cache is None:
        return read_all(kind.read, list(runs.values()), kind.least)
    keys = {folder: kind.key(folder) for folder in runs.values()}
    known = cache.read(keys)
    have = {path for item in known for path in item.paths}
    missing = [folder for folder in runs.values() if folder not in have]
    untidy = whole and cache.untidy(known)
    now = cache.now() if untidy or len(missing) >= caches.LEAST else None
    if now is None:
        return known + read_all(kind.read, missing, kind.least)
    keys = {folder: kind.key(folder) for folder in missing}  # after the clock was looked at

    def read(folders: Sequence[str]) -> Entries:
        entries = kind.read(folders)
        pairs = zip(entries.paths, entries.keys, strict=True)
        entries = replace(entries, keys=[None if key is None else keys[path] for path, key in pairs])
        if kind.is_large:
            cache.store(entries, now)
        return entries

    if untidy:
        cache.tidy(known, now)
    new = read_all(read, missing, kind.least)
    if not kind.is_large:
        cache.store(joined(new, missing), now)
    return known + new


def _find(path: Where | None) -> dict[str, _Found]:
    """Returns every run directory at or below `path`, each once, sorted."""
    if path is None:
        raise RunsNotFound('runs are read from a folder or of a sweep: load_runs("outputs"), load_runs(sweep="NAME")')
    given = [path] if isinstance(path, str | os.PathLike) else list(path)
    roots = [str(Path(item)) for item in given]
    if wrong := [root for root in roots if not os.path.isdir(root)]:
        raise RunsNotFound(
            f"runs are read from existing directories, but there is no directory {', '.join(wrong)}; give a run "
            "directory or a folder of them, for example outputs/"
        )
    real_roots = {os.path.realpath(root) for root in roots}
    root_above: dict[str, str | None] = {}
    found = {}
    foreign = Foreign()
    for real, folder in find_run_folders(*roots, foreign=foreign).items():
        parent = real.rpartition("/")[0]
        if parent not in root_above:
            above = map(str, (Path(parent), *Path(parent).parents))
            root_above[parent] = next((item for item in above if item in real_roots), None)
        found[folder] = _Found(real, root_above[parent], folder in foreign.found)
    return found


def _planned(sweep: Sweep) -> list[tuple[SweepRun, str]]:
    """Returns every run that a sweep will make, or has made, and its directory, be it there or not."""
    chosen, folders = active(sweep.runs, sweep.chosen()), RunFolders()
    return [(run, str(run.paths(folders).root)) for run in sweep.runs if run.index in chosen]


def _begun(planned: Iterable[tuple[SweepRun, str]]) -> dict[str, _Found]:
    """Returns the directories of planned runs that are there."""
    reals: dict[str, str] = {}
    found = {}
    for _, folder in planned:
        parent, _, name = folder.rpartition("/")
        if parent not in reals:
            reals[parent] = os.path.realpath(parent)
        if os.path.isdir(folder):
            real = f"{reals[parent]}/{name}"
            root = "/".join(real.split("/")[:-_OUTPUTS])
            found[folder] = _Found(real, root or None)
    return found


def _sweep_entries(sweep: Sweep) -> Entries:
    """Returns a row for every run of a sweep, in the order of the plan."""
    planned = _planned(sweep)
    begun = _begun(planned)
    waiting = [(run, folder) for run, folder in planned if folder not in begun]
    configs = read_planned_configs(sweep.planned_configs) if waiting else {}
    rows = []
    for run, folder in waiting:
        config = configs.get(run.run_id)
        reason = "is not started" if config is not None else "is not started, and its planned config cannot be read"
        fixed = {"run_id": run.run_id, "state": str(State.PENDING), "path": folder, "reason": reason}
        rows.append(RunRow(fixed, config=flatten(config or {}), planned=True))
    entries = joined([_gather(_RUNS, begun), run_entries(rows)], [folder for _, folder in planned])
    data = entries.data
    for name, values in (("index", [run.name for run, _ in planned]), ("stage", [run.stage for run, _ in planned])):
        data = data.set_column(data.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return replace(entries, data=data)


def _report(frame: pd.DataFrame) -> pd.DataFrame:
    for problem in frame.attrs["problems"]:
        log.warning("%s", problem)
    return frame


def load_runs(path: Where | None = None, *, sweep: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Reads runs, finished or not.

    Args:
        path: A run directory, a folder that holds some at any depth, or several of either.
        sweep: Instead of it a submitted sweep: its name, `name/number` or directory.

    Returns:
        One row a run, sorted by path; of a sweep one for every planned run, in the order of the plan, those not
        started included. Columns and `attrs` are those of `analysis.frame.runs_frame`. Metrics are the final ones of
        summary.json, or the latest logged ones while there is none; `state` tells which. `attrs["problems"]` lists,
        one line each, the files that could not be read and the runs that diverged; each is also logged as a warning.

    Raises:
        RunsNotFound: If a path is not a directory, or neither a path nor a sweep is given.
        RequestError: If there is no such sweep.
    """
    if sweep is not None:
        found = find(str(sweep), SWEEPS)
        return _report(runs_frame(_sweep_entries(found), found.label))
    return _report(runs_frame(_gather(_RUNS, _find(path))))


def load_metrics(path: Where | None = None, *, sweep: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Reads the learning curves of runs, finished or not.

    Args:
        path: A run directory, a folder that holds some at any depth, or several of either.
        sweep: Instead of it a submitted sweep, as for `load_runs`.

    Returns:
        One row a run and step, sorted by path and step: `run_id`, `path`, `step`, `time` (when the last row of the step
        was written), then the metrics by their names, float64, training and evaluation of a step in one row. Where a
        resumed run wrote a step again, the later values stand. `attrs["problems"]` as in `load_runs`.

    Raises:
        RunsNotFound: If a path is not a directory, or neither a path nor a sweep is given.
        RequestError: If there is no such sweep.
    """
    folders = _find(path) if sweep is None else _begun(_planned(find(str(sweep), SWEEPS)))
    entries = _gather(_METRICS, folders)
    problems = [line for lines in entries.problems for line in lines]
    has_rows = np.flatnonzero(entries.counts).tolist()
    if len(has_rows) < len(entries.paths):
        entries = entries.take(has_rows)
    frame = metrics_frame(entries, [id_in_name(path) or _written_id(path) for path in entries.paths])
    frame.attrs["problems"] = problems
    return _report(frame)


def _written_id(folder: str) -> str | None:
    """Returns the run id of a directory whose name does not end in it; None of a run of others."""
    paths = RunPaths(Path(folder))
    try:
        return read_state(paths).run_id or None if paths.state.exists() else None
    except StateUnreadable:
        return None
