"""The settings of a sweep: runs that differ in the seed alone, their mean, and which runs are not in it and why."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.parameters import format_value, short_names, varying_parameters
from analysis.stats import mean_interval
from gpt_opt.records.metrics import metric_text
from gpt_opt.records.state import State

OVER = "seed"
"""What runs of one setting differ in."""

COSTS = ("time_s", "tokens", "gpu_s")
"""Columns of a frame that say what a run cost; the last is of those that have it."""

DIVERGED = "LossNotFinite"
"""The error of a training whose loss is NaN or infinite, as state.json names it."""


@dataclass(frozen=True)
class Setting:
    """Runs that differ in the seed alone, or in what was asked to average over.

    Attributes:
        values: What tells it from the other settings: config key to value.
        n: Runs that its mean is over: COMPLETED, with a finite value of the metric.
        mean: Of the metric; NaN where there is none.
        low: Lower end of the 95% interval of the mean; NaN of fewer than two runs.
        high: Its upper end.
        runs: The ids of the runs that its mean is over.
        unfinished: Runs that have not ended: planned, running, interrupted.
        failed: Runs that FAILED for another reason than divergence.
        diverged: Runs whose loss or metric became NaN or infinite.
        missing: COMPLETED runs without a value of the metric: not logged, or NaN.
        samples: What `over` says of each run (`0` of seed 0) to its value of the metric.
        costs: Mean over the same runs of each of `COSTS` that they have.
    """

    values: Mapping[str, Any]
    n: int
    mean: float
    low: float
    high: float
    runs: tuple[str, ...]
    unfinished: int = 0
    failed: int = 0
    diverged: int = 0
    missing: int = 0
    samples: Mapping[Hashable, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        """All runs of it."""
        return self.n + self.unfinished + self.failed + self.diverged + self.missing

    @property
    def label(self) -> str:
        """`beta=0.1, lr=0.001`; `the only setting` where nothing varies."""
        names = short_names(list(self.values))
        return (
            ", ".join(f"{names[key]}={format_value(value)}" for key, value in self.values.items()) or "the only setting"
        )

    def against(self, other: Setting) -> str:
        """Returns its label with only what differs from another setting."""
        differ = {key: value for key, value in self.values.items() if hashable(value) != hashable(other.values[key])}
        return replace(self, values=differ).label if differ else self.label

    def without_value(self) -> str:
        """Returns what its mean leaves out, `1 failed, 2 unfinished`; empty where nothing."""
        counts = {"failed": self.failed, "diverged": self.diverged}
        counts |= {"unfinished": self.unfinished, "without a value": self.missing}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)

    def text(self, metric: str) -> str:
        """Returns `78.1% [76.0%, 80.2%]`, the mean and its interval; `-` where there is none."""
        if not self.n:
            return "-"
        mean = metric_text(metric, self.mean)
        if math.isnan(self.low):
            return mean
        return f"{mean} [{metric_text(metric, self.low)}, {metric_text(metric, self.high)}]"


def hashable(value: Any) -> Hashable:
    """Returns a config value as something to group by; lists by their text, missing ones alike."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return None if pd.isna(value) else value


def settings_by(runs: pd.DataFrame, by: Sequence[str] | None, over: str = OVER) -> list[str]:
    """Returns the config keys whose values make a setting: those given, or all that vary but `over`."""
    return list(by) if by is not None else [key for key in varying_parameters(runs) if key != over]


def fates(runs: pd.DataFrame, metric: str) -> pd.Series:
    """Returns for each run whether its value counts, or why not: counted, unfinished, failed, diverged or missing."""
    values = runs[metric] if metric in runs.columns else pd.Series(math.nan, index=runs.index)
    done, failed = runs["state"] == State.COMPLETED, runs["state"] == State.FAILED
    found = pd.Series("unfinished", index=runs.index, dtype="str")
    found[failed] = "failed"
    found[failed & runs["error"].str.startswith(DIVERGED).fillna(False)] = "diverged"
    found[done] = "counted"
    found[done & values.isna()] = "missing"
    found[done & values.abs().eq(math.inf)] = "diverged"
    return found


def settings(runs: pd.DataFrame, metric: str, by: Sequence[str] | None = None, over: str = OVER) -> list[Setting]:
    """Returns the settings of a sweep, in the order of their first runs.

    Args:
        runs: What `load_runs` returned, or some of its rows.
        metric: The metric.
        by: The config keys whose values make a setting; None for all that vary but `over`. What else varies is averaged
            over together with `over`.
        over: The config key that runs of one setting differ in.
    """
    keys = settings_by(runs, by, over)
    averaged = [
        key for key in dict.fromkeys([over, *varying_parameters(runs)]) if key not in keys and key in runs.columns
    ]
    table = pd.DataFrame({"fate": fates(runs, metric), "run_id": runs["run_id"]})
    table["value"] = runs[metric] if metric in runs.columns else math.nan
    costs = [name for name in COSTS if name in runs.columns]
    rows: dict[tuple[Hashable, ...], list[dict[Hashable, Any]]] = {}
    every = zip(
        table.to_dict("records"),
        runs[keys].itertuples(index=False) if keys else [()] * len(runs),
        runs[averaged].itertuples(index=False) if averaged else [()] * len(runs),
        runs[costs].to_dict("records") if costs else [{}] * len(runs),
        strict=True,
    )
    for row, own, block, cost in every:
        values: dict[Hashable, Any] = {
            "own": dict(zip(keys, own, strict=True)),
            "block": tuple(map(hashable, block)),
            "costs": cost,
        }
        rows.setdefault(tuple(map(hashable, own)), []).append({**row, **values})
    return [_setting(group) for group in rows.values()]


def _setting(rows: Sequence[Mapping[Hashable, Any]]) -> Setting:
    counted = [row for row in rows if row["fate"] == "counted"]
    mean, low, high = map(float, mean_interval(np.array([row["value"] for row in counted], dtype=np.float64)))
    samples: dict[Hashable, float] = {}
    for row in counted:
        block, again = row["block"], 0
        while (*block, again) in samples:  # runs that differ in something that was not asked for
            again += 1
        samples[(*block, again)] = float(row["value"])
    fate = pd.Series([row["fate"] for row in rows]).value_counts()
    counts = {name: int(fate.get(name, 0)) for name in ("unfinished", "failed", "diverged", "missing")}
    costs = {}
    for name in counted[0]["costs"] if counted else ():
        known = [float(row["costs"][name]) for row in counted if not pd.isna(row["costs"][name])]
        if len(known) == len(counted):
            costs[name] = math.fsum(known) / len(known)
    ids = tuple(str(row["run_id"]) for row in counted)
    return Setting(rows[0]["own"], len(counted), mean, low, high, ids, **counts, samples=samples, costs=costs)
