"""One JSON document of a sweep, or of the runs in a folder: all that the page of a report shows."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.answers import Answer, metric_columns
from analysis.answers.words import remarks
from analysis.frame import RUN_COLUMNS, SWEEP_COLUMNS
from analysis.parameters import format_value, short_names, varying_parameters
from analysis.report.costs import total
from analysis.report.curves import pack_all
from analysis.report.origin import origins
from analysis.report.runs import ReportedRun, runs_of_folder, runs_of_sweep
from gpt_opt.records.metrics import METRICS, MetricInfo, metric_info, metric_label, metric_text
from gpt_opt.records.provenance import read_provenance
from gpt_opt.records.summary import read_summary
from gpt_opt.records.sweep_dir import Sweep

_MOST_TRACEBACK = 4_000
"""Characters of a traceback, from its end."""

_MOST_TRACEBACKS = 40
"""Runs whose tracebacks a report has."""

_MOST_SETTINGS = 100
"""Settings in the table of them."""

_MOST_TEXT = 1_000
"""Characters of a config value."""


@dataclass(frozen=True)
class Source:
    """What a report is about.

    Attributes:
        title: The sweep as `<name>/<n>`, or the folder.
        runs: What `load_runs` returned.
        metrics: What `load_metrics` returned.
        base: The working directory of the runs: paths are shown relative to it.
        answer: What the runs say of the metric that they are compared by.
        sweep: The sweep directory; None for a folder of runs.
        status: What `gptopt status --json` prints of the sweep; None for a folder.
        failures: Groups of failed runs as in that document; their indices count the runs.
        is_over: Whether nothing works on the runs any more.
    """

    title: str
    runs: pd.DataFrame
    metrics: pd.DataFrame
    base: Path
    answer: Answer
    sweep: Sweep | None
    status: Mapping[str, Any] | None
    failures: Sequence[Mapping[str, Any]]
    is_over: bool


def gather(source: Source, every_s: float | None = None) -> dict[str, Any]:
    """Returns the document of a report.

    Args:
        source: What it is about.
        every_s: Seconds until it is written again; None where it is not.
    """
    frame = source.runs
    if source.sweep is not None and source.status is not None:
        runs = runs_of_sweep(source.sweep, source.status, frame)
    else:
        runs = runs_of_folder(frame)
    shown = _Texts(source, runs)
    keys = _keys(frame, runs)
    metric = source.answer.metric
    metrics = _metrics(frame, source.metrics, metric)
    constant, differing = _config(frame, keys)
    by_path = dict(tuple(source.metrics.groupby("path"))) if len(source.metrics) else {}
    nothing = source.metrics.iloc[:0]
    frames = [by_path.get(frame["path"].iat[run.row], nothing) if run.row is not None else nothing for run in runs]
    curves = pack_all(frames, list(metrics), [metric, *_TWINS.get(metric, ()), *_MAIN])
    columns = {name: frame[name].tolist() for name in (*keys, *differing, *metrics, *_COUNTS) if name in frame.columns}
    documents = []
    for run, curve in zip(runs, curves, strict=True):
        values = {} if run.row is None else {name: column[run.row] for name, column in columns.items()}
        documents.append(_run(run, values, (keys, differing, metrics), shown) | {"curves": curve})
    return {
        "title": source.title,
        "is_sweep": source.sweep is not None,
        "sentence": shown.value(source.answer.sentence()),
        "written": time.time(),
        "is_over": source.is_over,
        "every_s": every_s if not source.is_over else None,
        "metric": metric,
        "metrics": metrics,
        "keys": [keys[key] for key in keys],
        "constant": {key: shown.value(value) for key, value in constant.items()},
        "runs": documents,
        "settings": _settings(source.answer, shown),
        "failures": [_failure(group, _positions(source), shown) for group in source.failures],
        "stages": _stages(source.status),
        "progress": _progress(source.status),
        "cost": _cost(runs),
        "origin": origins(*_records(runs)),
        "commands": _commands(source, runs),
        "notes": [shown.text(line) for line in _notes(source)],
    }


_COUNTS = ("step", "total_steps", "time_s", "tokens", "peak_memory_mb", "reason")
_MAIN = ("loss", "eval/loss")
_TWINS = {f"eval/{name}": (name,) for name in METRICS}


class _Texts:
    """Makes values and texts fit to be shown: paths relative, ids of runs as their names, nothing overlong.

    Args:
        source: What the report is about.
        runs: Its runs.
    """

    def __init__(self, source: Source, runs: Sequence[ReportedRun]) -> None:
        self._base = source.base
        self._names = {run.run_id: run.name for run in runs} if any(run.stage for run in runs) else {}

    def path(self, path: Path) -> str:
        """Returns a path relative to the working directory of the runs, where it lies below that."""
        return os.path.relpath(path, self._base) if path.is_relative_to(self._base) else str(path)

    def text(self, text: str) -> str:
        """Returns a text with the paths in it relative to the working directory of the runs."""
        return text.replace(f"{self._base}{os.sep}", "")

    def value(self, value: Any) -> Any:
        """Returns a config value as JSON: a number, a boolean, a text, or None."""
        value = _plain(value)
        if not isinstance(value, str):
            return value
        named = _REFERENCE.sub(lambda found: self._names.get(found[1], found[0]), self.text(value))
        return named if len(named) <= _MOST_TEXT else f"{named[:_MOST_TEXT]}…"


_REFERENCE = re.compile(r"run:([0-9a-f]{12})")


def _plain(value: Any) -> Any:
    """Returns a value of a frame as JSON can hold it; lists as text, missing and NaN as None."""
    if isinstance(value, list | dict | tuple | np.ndarray):
        return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value, ensure_ascii=False)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)) else str(value)


def _number(value: Any) -> float | str | None:
    """Returns a metric with six digits; a text where it is infinite, for JSON has no such number."""
    if value is None or value is pd.NA or math.isnan(value):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else f"{value}"


def _run(
    run: ReportedRun,
    values: Mapping[str, Any],
    columns: tuple[Iterable[str], Iterable[str], Iterable[str]],
    shown: _Texts,
) -> dict[str, Any]:
    keys, differing, metrics = columns
    found = {
        "name": run.name,
        "id": run.run_id,
        "state": run.state,
        "stage": run.stage,
        "parent": run.parent,
        "path": shown.path(run.root),
        "values": [shown.value(values.get(key)) for key in keys],
        "config": {key: value for key in differing if (value := shown.value(values.get(key))) is not None},
        "final": {name: value for name in metrics if (value := _number(values.get(name))) is not None},
        "seconds": round(run.cost.seconds, 1),
        "gpu_seconds": round(run.cost.gpu_seconds, 1),
        "attempts": run.cost.attempts,
        "message": shown.text(run.message or str(_plain(values.get("reason")) or "")),
        "traceback": shown.text(run.traceback[-_MOST_TRACEBACK:]),
        "node": run.node,
        "gpus": ",".join(run.gpus),
        "slurm": run.slurm_job,
        "command": None if run.overrides is None else shlex.join(["python", "run_hydra.py", *run.overrides]),
    }
    counts = {name: _plain(values.get(name)) for name in _COUNTS[:-1]}
    return {name: value for name, value in {**found, **counts}.items() if value not in ("", None, {})}


# -- what varies, and what is measured --------------------------------------------------------------------------------


def _keys(frame: pd.DataFrame, runs: Sequence[ReportedRun]) -> dict[str, dict[str, Any]]:
    """Returns the config keys that tell the runs apart, in a pipeline those of a stage; what they are called, and how.

    The seed comes last: it is of the least interest.
    """
    stages: dict[str, list[int]] = {}
    for run in runs:
        if run.row is not None:
            stages.setdefault(run.stage, []).append(run.row)
    within = [key for rows in stages.values() for key in varying_parameters(frame.iloc[rows])]
    ordered = sorted(dict.fromkeys(within), key=lambda key: key == "seed")
    names = short_names(ordered, reserved=("run", "state", "stage", "steps", "time"))
    return {key: {"key": key, "name": names[key], **_kind(frame[key])} for key in ordered}


def _kind(column: pd.Series) -> dict[str, bool]:
    values = [_plain(value) for value in column.dropna().tolist()]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return {"numeric": numeric, "log": numeric and swept_in_log(values)}


def swept_in_log(values: Iterable[float]) -> bool:
    """Returns whether positive values are spaced more evenly in their logarithms, or span a factor of ten or more."""
    points = sorted(set(values))
    if len(points) < 2 or points[0] <= 0:
        return False
    if len(points) == 2:
        return points[1] >= 10 * points[0]
    return _unevenness(np.log(points)) < _unevenness(np.array(points))


def _unevenness(points: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    gaps = np.diff(points)
    return float(gaps.std() / gaps.mean())


def _metrics(frame: pd.DataFrame, rows: pd.DataFrame, main: str) -> dict[str, dict[str, Any]]:
    """Returns the metrics that any run has, those that runs are compared by first, with what is known of them."""
    known = [*(f"eval/{name}" for name in METRICS), *METRICS]
    own = [name for name in (*frame.columns, *rows.columns) if "/" in name and name not in known]
    present = [
        name
        for name in dict.fromkeys([main, *known, *own])
        if any(name in item.columns and np.isfinite(item[name].astype("float64")).any() for item in (frame, rows))
    ]
    return {name: _described(name, metric_info(name) or MetricInfo(name, form=".4g")) for name in present}


def _described(name: str, info: MetricInfo) -> dict[str, Any]:
    label = metric_label(name)
    return {"label": label, "unit": info.unit, "form": info.form, "better": info.greater_is_better}


def _config(frame: pd.DataFrame, keys: Iterable[str]) -> tuple[Mapping[str, Any], list[str]]:
    """Returns the config values that all runs share, and the other keys that differ."""
    constant = frame.attrs["constant"]
    others = {*RUN_COLUMNS, *SWEEP_COLUMNS, *metric_columns(frame), *constant, *keys}
    return constant, [name for name in frame.columns if name not in others]


# -- the sweep as a whole ---------------------------------------------------------------------------------------------


def _positions(source: Source) -> dict[int, int]:
    """Returns which run of the report has an index; alternatives that were not chosen are in a plan, not in a report."""
    indices = range(len(source.runs)) if source.status is None else [item["index"] for item in source.status["items"]]
    return {index: position for position, index in enumerate(indices)}


def _failure(group: Mapping[str, Any], positions: Mapping[int, int], shown: _Texts) -> dict[str, Any]:
    return {
        "state": group["state"],
        "cause": group["cause"],
        "says": shown.text(group["says"]),
        "parameters": dict(group["parameters"]),
        "runs": [positions[index] for index in group["indices"]],
    }


def _settings(answer: Answer, shown: _Texts) -> dict[str, Any] | None:
    """Returns the table of settings as text, the best first, and what is to be said of it; None for a single setting."""
    if len(answer.settings) < 2:
        return None
    names = short_names(answer.by)
    pairs = {} if answer.comparison is None else {id(pair.other): pair for pair in answer.comparison.pairs}
    rows = []
    for item in answer.settings[:_MOST_SETTINGS]:
        pair = pairs.get(id(item))
        apart = "" if pair is None else ("yes" if pair.distinguishable else "no") if pair.test else "too few to tell"
        ends = "" if math.isnan(item.low) else " to ".join(metric_text(answer.metric, end) for end in (item.low, item.high))
        mean = metric_text(answer.metric, item.mean) if item.n else ""
        values = [format_value(shown.value(item.values[key])) for key in answer.by]
        rows.append([*values, mean, ends, str(item.n), item.without_value(), apart])
    head = [*names.values(), metric_label(answer.metric), "95% interval", "n", "left out", "differs from the best"]
    lines = remarks(answer)
    if (more := len(answer.settings) - _MOST_SETTINGS) > 0:
        lines.append(f"{more} further settings are not in the table; gptopt results has all")
    return {"columns": head, "numbers": len(names), "rows": rows, "lines": [shown.value(line) for line in lines]}


def _stages(status: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if status is None:
        return []
    return [{"name": stage["name"], "from": stage["from"] or ""} for stage in status["stages"]]


def _progress(status: Mapping[str, Any] | None) -> dict[str, Any]:
    if status is None:
        return {}
    jobs = [f"{job['id']} {job['state'] or ''}".strip() for job in status["jobs"] if job["alive"]]
    return {"fraction": status["fraction"], "eta_s": status["eta_s"], "backend": status["backend"], "jobs": jobs}


def _cost(runs: Sequence[ReportedRun]) -> dict[str, Any]:
    found = total(run.cost for run in runs)
    made = [run for run in runs if run.cost.attempts]
    return {
        "begin": found.begin,
        "end": found.end,
        "seconds": found.seconds,
        "gpu_seconds": found.gpu_seconds,
        "attempts": found.attempts,
        "free": sum(run.state == "COMPLETED" for run in runs) - sum(run.state == "COMPLETED" for run in made),
    }


def _records(runs: Sequence[ReportedRun]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns provenance.json of each run, and what it trained on."""
    records = {run.name: record for run in runs if (record := read_provenance(run.paths))}
    devices = {}
    for run in runs:
        if run.name in records:
            try:
                devices[run.name] = str(read_summary(run.paths).get("device") or "")
            except (OSError, ValueError):
                devices[run.name] = ""
    return records, {name: device for name, device in devices.items() if device}


def _commands(source: Source, runs: Sequence[ReportedRun]) -> dict[str, Any]:
    """Returns the commands that make the runs again."""
    if source.sweep is None:
        return {"submit": "", "file": ""}
    submission = source.sweep.submission()
    words = ["gptopt", "submit", submission.file, *submission.extra, "--backend", submission.backend]
    try:
        text = (source.sweep.root / "params.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    return {"submit": shlex.join(words) if submission.file else "", "file": text, "name": submission.file}


def _notes(source: Source) -> list[str]:
    lines = [*source.runs.attrs.get("problems", ()), *source.metrics.attrs.get("problems", ())]
    if source.status is not None:
        lines += [*source.status["notes"], *source.status["advice"]]
    return list(dict.fromkeys(lines))
