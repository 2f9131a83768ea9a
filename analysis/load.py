"""Run directories into tidy DataFrames: `load_runs` has a row a run, `load_metrics` a row a run and step."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.files import Problems, flatten, number, read_object, read_rows, take, text, whole
from analysis.frame import RUN_COLUMNS, TIME, RunRow, runs_frame
from gpt_opt.errors import GptOptError
from gpt_opt.records.best_run import SWEEPS
from gpt_opt.records.choices import active
from gpt_opt.records.planned_configs import planned_config
from gpt_opt.records.run_dir import RunFolders, RunPaths, find_run_dirs
from gpt_opt.records.state import State, StateUnreadable, read_state
from gpt_opt.records.sweep_dir import Sweep, find

__all__ = ["METRIC_COLUMNS", "RUN_COLUMNS", "RunsNotFound", "load_metrics", "load_runs"]

Where = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

METRIC_COLUMNS: Mapping[str, str] = {"run_id": "str", "path": "str", "step": "int64", "time": TIME}
"""The columns that every frame of metrics has, with their types; the metrics follow."""

_ERROR_LENGTH = 200


class RunsNotFound(GptOptError):
    """A path to read runs from is not a directory."""


def _run_dirs(path: Where | None) -> list[Path]:
    """Returns every run directory at or below `path`, each once, sorted."""
    if path is None:
        raise RunsNotFound('runs are read from a folder or of a sweep: load_runs("outputs"), load_runs(sweep="NAME")')
    roots = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(item) for item in path]
    if wrong := [str(root) for root in roots if not root.is_dir()]:
        raise RunsNotFound(
            f"runs are read from existing directories, but there is no directory {', '.join(wrong)}; give a run "
            "directory or a folder of them, for example outputs/"
        )
    return find_run_dirs(*roots)


def _id_in_name(root: Path) -> str | None:
    """Returns the run id that ends the name of a run directory; a timestamped one has none."""
    found = re.search(r"-([0-9a-f]{12})$", root.name)
    return found.group(1) if found else None


def _short_error(error: object) -> str | None:
    """Returns type and message of the exception that ended a run, on one line."""
    if error is None:
        return None
    parts = [error.get("type"), error.get("message")] if isinstance(error, dict) else [error]
    line = " ".join(": ".join(str(part) for part in parts if part).split())
    return line if len(line) <= _ERROR_LENGTH else line[: _ERROR_LENGTH - 1] + "…"


def _state_fields(paths: RunPaths, problems: Problems) -> dict[str, Any]:
    try:
        state = read_state(paths)
    except (StateUnreadable, RecursionError) as error:
        problems.add(paths.state, f"cannot be read: {error}")
        return {"run_id": _id_in_name(paths.root)}
    if not paths.state.exists() and (paths.metrics.exists() or paths.summary.exists()):
        problems.add(paths.state, "is missing, although the run has results")
    record = asdict(state)
    return {
        "run_id": text(record["run_id"]) or _id_in_name(paths.root),
        "state": str(state.state),
        "error": _short_error(state.error),
        **take(record, ("step", "total_steps", "attempt"), whole, problems, paths.state),
        **take(record, ("started", "updated"), text, problems, paths.state),
    }


def _last_metrics(paths: RunPaths, problems: Problems) -> dict[str, Any]:
    """Returns the latest value of every metric of a run that has no summary yet."""
    rows = sorted(read_rows(paths.metrics, problems), key=lambda row: row["step"])
    latest = {name: value for row in rows for name, value in row.items() if value is not None}
    return {name: value for name, value in latest.items() if name not in METRIC_COLUMNS}


def _results(paths: RunPaths, problems: Problems) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Returns the fixed fields of a summary and the metrics, those so far when there is no summary."""
    summary = read_object(paths.summary, problems)
    if summary is None:
        return {}, {name: number(value) for name, value in _last_metrics(paths, problems).items()}
    metrics = summary.get("metrics")
    if not isinstance(metrics, dict):
        problems.add(paths.summary, f"metrics must be an object, but is {metrics!r:.60}")
        metrics = {}
    fixed = {
        **take(summary, ("time_s", "peak_memory_mb"), number, problems, paths.summary),
        **take(summary, ("tokens",), whole, problems, paths.summary),
    }
    return fixed, take(metrics, metrics, number, problems, paths.summary)


def _read_run(root: Path, problems: Problems) -> RunRow:
    paths, own = RunPaths(root), Problems()
    state = _state_fields(paths, own)
    config = read_object(paths.config, own)
    if config is None and not paths.config.exists():
        own.add(paths.config, "is missing, so the parameters of the run are unknown")
    fixed, metrics = _results(paths, own)
    if state.get("state") == "COMPLETED" and not paths.summary.exists():
        own.add(paths.summary, "is missing, although the run is COMPLETED; its metrics are the last logged ones")
    reason = "; ".join(line.removeprefix(f"{root}/") for line in own.found) or None
    diverged = [f"{name}={value}" for name, value in metrics.items() if value is not None and not math.isfinite(value)]
    if diverged:
        own.add(root, f"the run diverged: {', '.join(diverged)}")
    problems.found += own.found
    return RunRow({**state, **fixed, "path": str(root), "reason": reason}, metrics, dict(flatten(config or {})))


def _planned_rows(sweep: Sweep, problems: Problems) -> list[RunRow]:
    """Returns a row for every run that the sweep will make, or has made."""
    chosen, folders, rows = active(sweep.runs, sweep.chosen()), RunFolders(), []
    for run in sweep.runs:
        if run.index not in chosen:
            continue
        paths, own = run.paths(folders), {"run_id": run.run_id, "index": run.name, "stage": run.stage}
        if paths.root.is_dir():
            row = _read_run(paths.root, problems)
            rows.append(RunRow({**row.fixed, **own}, row.metrics, row.config))
            continue
        config = planned_config(sweep.planned_configs, run.run_id)
        reason = "is not started" if config is not None else "is not started, and its planned config cannot be read"
        fixed = {**own, "state": str(State.PENDING), "path": run.run_dir, "reason": reason}
        rows.append(RunRow(fixed, config=dict(flatten(config or {}))))
    return rows


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
    problems = Problems()
    if sweep is None:
        return runs_frame([_read_run(root, problems) for root in _run_dirs(path)], problems.found)
    found = find(str(sweep), SWEEPS)
    return runs_frame(_planned_rows(found, problems), problems.found, found.label)


def _steps(root: Path, problems: Problems) -> list[dict[str, Any]]:
    """Returns one record a step of a run; rows of one step are merged, the later written value wins."""
    paths = RunPaths(root)
    merged: dict[int, dict[str, Any]] = {}
    for row in read_rows(paths.metrics, problems):
        merged.setdefault(row["step"], {}).update(row)
    if not merged:
        return []
    fixed = {"run_id": _state_fields(paths, problems)["run_id"], "path": str(root)}
    return [{**merged[step], **fixed} for step in sorted(merged)]


def _begun(sweep: Sweep) -> list[Path]:
    """Returns the directories of the runs of a sweep that have one."""
    folders = RunFolders()
    roots = (run.paths(folders).root for run in sweep.runs)
    return [root for root in dict.fromkeys(roots) if root.is_dir()]


def _names(records: Iterable[Iterable[str]]) -> list[str]:
    """Returns every name once, in the order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))


def _number_column(values: list[Any]) -> pd.Series:
    try:
        return pd.Series(np.array(values, dtype="float64"))
    except OverflowError:
        return pd.Series([number(value) for value in values], dtype="float64")


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
    problems = Problems()
    roots = _run_dirs(path) if sweep is None else _begun(find(str(sweep), SWEEPS))
    rows = [row for root in roots for row in _steps(root, problems)]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys((*METRIC_COLUMNS, *_names(rows)))}
    frame = pd.DataFrame(
        {
            name: pd.Series(values, dtype=METRIC_COLUMNS[name])
            if name in METRIC_COLUMNS and name != "time"
            else _number_column(values)
            for name, values in columns.items()
        }
    )
    frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True, errors="coerce").astype(TIME)
    frame.attrs["problems"] = problems.found
    return frame
