"""What a report has to say, read once: runs with their costs, the keys that vary, the metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.answers import Answer, metric_columns
from analysis.curves import METRIC_COLUMNS
from analysis.parameters import format_value, is_number, named_as_in, parameter_columns, short_names, varying_parameters
from analysis.report.runs import ReportedRun, runs_of_folder, runs_of_sweep
from analysis.report.texts import Texts, plain
from analysis.run_table import RUN_COLUMNS, SWEEP_COLUMNS
from analysis.spacing import log_spaced
from gpt_opt.app.settings import find_settings
from gpt_opt.errors import ConfigError
from gpt_opt.records.metrics import METRICS, MetricInfo, greater_is_better, metric_info, own_metrics
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Sweep


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
        notes: What else is to be said, a line each.
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
    notes: Sequence[str]
    is_over: bool


@dataclass(frozen=True)
class Key:
    """A config key that tells runs apart.

    Attributes:
        key: Dotted.
        name: The shortest clear form of it.
        numeric: Whether its values are numbers.
        log: Whether these were chosen by their ratios.
    """

    key: str
    name: str
    numeric: bool
    log: bool


class Contents:
    """What the parts of a report are made of."""

    def __init__(self, source: Source) -> None:
        self.source, frame = source, source.runs
        if source.sweep is not None and source.status is not None:
            self.runs = runs_of_sweep(source.sweep, source.status, frame)
        else:
            self.runs = runs_of_folder(frame)
        staged = any(run.stage for run in self.runs)
        self.texts = Texts(source.base, {run.run_id: run.name for run in self.runs} if staged else {})
        self.metric = source.answer.metric
        self.keys = _keys(frame, self.runs)
        self.rows = named_as_in(frame, source.metrics)
        self.metrics = _metrics(frame, self.rows, self.metric)
        self.constant: Mapping[str, Any] = frame.attrs["constant"]
        others = {*RUN_COLUMNS, *SWEEP_COLUMNS, *metric_columns(frame), *self.constant, *(key.key for key in self.keys)}
        self.differing = [name for name in frame.columns if name not in others]

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """The frame of runs as lists."""
        return {name: self.source.runs[name].tolist() for name in self.source.runs.columns}

    def value(self, run: ReportedRun, column: str) -> Any:
        """Returns a value of the frame, None where there is none."""
        values = self.columns.get(column)
        return None if run.row is None or values is None else values[run.row]

    def parameters(self, run: ReportedRun) -> str:
        """Returns what tells a run from others: `beta=0.1, seed=0`."""
        values = ((key.name, self.texts.value(self.value(run, key.key))) for key in self.keys)
        return ", ".join(f"{name}={format_value(value)}" for name, value in values if value is not None)

    @cached_property
    def best(self) -> int | None:
        """Which complete run has the best value of the metric; None where none has one."""
        sign = 1 if self.source.answer.greater else -1
        values = {
            place: sign * value
            for place, run in enumerate(self.runs)
            if run.state == State.COMPLETED and isinstance(value := plain(self.value(run, self.metric)), int | float)
        }
        return max(values, key=lambda place: values[place]) if values else None

    @cached_property
    def program(self) -> Sequence[str] | None:
        """The words of a command before the overrides of a run; None where the app has no such command."""
        if not self.source.runs.attrs.get("all_identify"):
            return ("python", "run_hydra.py")
        try:
            settings = find_settings(self.source.base)
        except ConfigError:
            return None
        if settings is None or settings.command is not None:
            return None
        if settings.script is None:
            return ("python", "-m", str(settings.module))
        return ("python", os.path.relpath(settings.script, self.source.base))

    @property
    def failures(self) -> list[tuple[Mapping[str, Any], list[int]]]:
        """The groups of failed runs, each with the places of its runs; a plan has runs that were not chosen, too."""
        status = self.source.status
        indices = range(len(self.runs)) if status is None else [item["index"] for item in status["items"]]
        places = {index: place for place, index in enumerate(indices)}
        return [(group, [places[index] for index in group["indices"]]) for group in self.source.failures]


def _keys(frame: pd.DataFrame, runs: Sequence[ReportedRun]) -> list[Key]:
    """Returns the config keys that tell runs apart, in a pipeline those of a stage; the seed last, of no interest."""
    stages: dict[str, list[int]] = {}
    for run in runs:
        if run.row is not None:
            stages.setdefault(run.stage, []).append(run.row)
    within = [key for rows in stages.values() for key in varying_parameters(frame.iloc[rows])]
    ordered = sorted(dict.fromkeys(within), key=lambda key: key == "seed")
    names = short_names(ordered, reserved=("run", "state", "stage", "steps", "time", "attempts"))
    return [Key(key, names[key], *_kind(frame[key])) for key in ordered]


def _kind(column: pd.Series) -> tuple[bool, bool]:
    values = [plain(value) for value in column.dropna().tolist()]
    numeric = all(map(is_number, values))
    return numeric, numeric and log_spaced(values)


def _metrics(frame: pd.DataFrame, rows: pd.DataFrame, main: str) -> dict[str, MetricInfo]:
    """Returns the metrics that any run has, the one that runs are compared by and those of evaluations first."""
    known = [*(f"eval/{name}" for name in METRICS), *METRICS]
    logged = [*metric_columns(frame), *(name for name in rows.columns if name not in METRIC_COLUMNS)]
    own = [name for name in (*own_metrics(logged), *logged) if name not in known]
    frame = frame.drop(columns=parameter_columns(frame))
    return {
        name: metric_info(name) or MetricInfo(name, greater_is_better(name), form=".4g")
        for name in dict.fromkeys([main, *known, *own])
        if any(name in item.columns and np.isfinite(item[name].astype("float64")).any() for item in (frame, rows))
    }
