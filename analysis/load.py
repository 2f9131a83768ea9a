"""Run directories into tidy DataFrames: `load_runs` has a row a run, `load_metrics` a row a run and step."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.files import Problems, flatten, number, read_object, read_rows, take, text, whole
from gpt_opt.errors import GptOptError
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.state import StateUnreadable, read_state

Where = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

TIME: Final = "datetime64[us, UTC]"

RUN_COLUMNS: Mapping[str, str] = {
    "run_id": "str",
    "state": "str",
    "step": "Int64",
    "total_steps": "Int64",
    "attempt": "Int64",
    "started": TIME,
    "updated": TIME,
    "time_s": "float64",
    "tokens": "Int64",
    "peak_memory_mb": "float64",
    "error": "str",
    "path": "str",
}
"""The columns that every frame of runs has, with their types; config and metric columns follow."""

METRIC_COLUMNS: Mapping[str, str] = {"run_id": "str", "path": "str", "step": "int64", "time": TIME}
"""The columns that every frame of metrics has, with their types; the metrics follow."""

_ERROR_LENGTH = 200


class RunsNotFound(GptOptError):
    """A path to read runs from is not a directory."""


@dataclass(frozen=True)
class _Run:
    """One run before it becomes a row."""

    fixed: dict[str, Any]
    metrics: dict[str, float | None]
    config: dict[str, Any]


def _run_dirs(path: Where) -> list[Path]:
    """Returns every run directory at or below `path`, each once, sorted."""
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


def _read_run(root: Path, problems: Problems) -> _Run:
    paths = RunPaths(root)
    state = _state_fields(paths, problems)
    config = read_object(paths.config, problems)
    if config is None and not paths.config.exists():
        problems.add(paths.config, "is missing, so the parameters of the run are unknown")
    fixed, metrics = _results(paths, problems)
    if state.get("state") == "COMPLETED" and not paths.summary.exists():
        problems.add(paths.summary, "is missing, although the run is COMPLETED; its metrics are the last logged ones")
    diverged = [f"{name}={value}" for name, value in metrics.items() if value is not None and not math.isfinite(value)]
    if diverged:
        problems.add(root, f"the run diverged: {', '.join(diverged)}")
    return _Run({**state, **fixed, "path": str(root)}, metrics, dict(flatten(config or {})))


def _fixed_column(values: list[Any], dtype: str) -> pd.Series:
    if dtype != TIME:
        return pd.Series(values, dtype=dtype)
    return pd.to_datetime(pd.Series(values, dtype="str"), utc=True, format="ISO8601", errors="coerce").astype(TIME)


def _config_column(values: list[Any]) -> pd.Series:
    """Returns config values with the narrowest type that holds them all; object when kinds are mixed."""
    kinds = {type(value) for value in values} - {type(None)}
    complete = None not in values
    if kinds == {bool}:
        return pd.Series(values, dtype="bool" if complete else "boolean")
    if kinds == {int} and all(whole(value) is not None for value in values if value is not None):
        return pd.Series(values, dtype="int64" if complete else "Int64")
    if float in kinds and kinds <= {int, float}:
        return pd.Series([number(value) for value in values], dtype="float64")
    return pd.Series(values, dtype="str" if kinds == {str} else "object")


def _names(records: Iterable[Iterable[str]]) -> list[str]:
    """Returns every name once, in the order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))


def load_runs(path: Where) -> pd.DataFrame:
    """Reads runs, finished or not.

    Args:
        path: A run directory, a folder that holds some at any depth, or several of either.

    Returns:
        One row a run, sorted by path: the columns of `RUN_COLUMNS`, the metrics by their names (`loss`, `eval/loss`,
        `eval/rewards/accuracies`), and the config by dotted key (`loss.beta`), lists as JSON text. Metrics are the
        final ones of summary.json, or the latest logged ones while there is none; `state` tells which. A name that
        appears twice keeps the first of these three meanings. `attrs["problems"]` lists, one line each, the files that
        could not be read and the runs that diverged; each is also logged as a warning.

    Raises:
        RunsNotFound: If a path is not a directory.
    """
    problems = Problems()
    runs = [_read_run(root, problems) for root in _run_dirs(path)]
    columns = {name: _fixed_column([run.fixed.get(name) for run in runs], dtype) for name, dtype in RUN_COLUMNS.items()}
    for name in _names(run.metrics for run in runs):
        columns.setdefault(name, pd.Series([run.metrics.get(name) for run in runs], dtype="float64"))
    for name in _names(run.config for run in runs):
        if name not in columns:
            columns[name] = _config_column([run.config.get(name) for run in runs])
    frame = pd.DataFrame(columns)
    frame.attrs["problems"] = problems.found
    return frame


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


def _number_column(values: list[Any]) -> pd.Series:
    try:
        return pd.Series(np.array(values, dtype="float64"))
    except OverflowError:
        return pd.Series([number(value) for value in values], dtype="float64")


def load_metrics(path: Where) -> pd.DataFrame:
    """Reads the learning curves of runs, finished or not.

    Args:
        path: A run directory, a folder that holds some at any depth, or several of either.

    Returns:
        One row a run and step, sorted by path and step: `run_id`, `path`, `step`, `time` (when the last row of the step
        was written), then the metrics by their names, float64, training and evaluation of a step in one row. Where a
        resumed run wrote a step again, the later values stand. `attrs["problems"]` as in `load_runs`.

    Raises:
        RunsNotFound: If a path is not a directory.
    """
    problems = Problems()
    rows = [row for root in _run_dirs(path) for row in _steps(root, problems)]
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
