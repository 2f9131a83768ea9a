"""The settings of a sweep: runs that differ in the seed alone, their mean, and which runs are not in it and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.answers.fates import fates, group_key
from analysis.answers.stages import SEED, STAGE, stages
from analysis.parameters import LONG_NUMBER, follows, format_value, short_names, varying_parameters
from analysis.stats import mean_interval
from gpt_opt.records.metrics import metric_info, metric_text

OVER = SEED
"""What runs of one setting differ in, unless someone says otherwise."""

COSTS = ("time_s", "tokens", "gpu_s")
"""Columns of a frame that say what a run cost; the last is of those that have it."""


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
        missing: COMPLETED runs that did not measure the metric.
        samples: The value of each run, in the order of `runs`, by its seed, then what else it is averaged over, then
            a number that tells apart runs that are alike in these.
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
    samples: Mapping[tuple[Hashable, ...], float] = field(default_factory=dict)
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
            ", ".join(f"{names[key]}={value_text(value)}" for key, value in self.values.items()) or "the only setting"
        )

    def against(self, other: Setting) -> str:
        """Returns its label with only what differs from another setting."""
        differ = {key: value for key, value in self.values.items() if group_key(value) != group_key(other.values[key])}
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


def value_text(value: Any) -> str:
    """Returns a config value for a sentence: a number that was drawn, not chosen, has four digits."""
    text = format_value(value)
    return f"{value:.4g}" if isinstance(value, float) and len(text) > LONG_NUMBER else text


def settings_by(runs: pd.DataFrame, by: Sequence[str] | None, over: str = OVER) -> list[str]:
    """Returns the keys whose values make a setting: those given, or all that vary but `over`.

    Where the runs are of several stages, the stage comes first, and what follows from it is left out.
    """
    if by is not None:
        return list(by)
    keys = [key for key in varying_parameters(runs) if key != over]
    if len(stages(runs)) < 2:
        return keys
    return [STAGE, *(key for key in keys if not follows(runs, key, STAGE))]


def averaged_over(runs: pd.DataFrame, keys: Sequence[str], over: str = OVER) -> list[str]:
    """Returns the config keys, other than `over`, that vary within settings, so that means are over them too."""
    groups = pd.Series([tuple(map(group_key, row)) for row in runs[list(keys)].itertuples(index=False)], runs.index)
    others = [key for key in varying_parameters(runs) if key not in (*keys, over)]
    return [key for key in others if runs[key].map(group_key).groupby(groups).nunique(dropna=False).max() > 1]


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
    averaged = [key for key in (over, *averaged_over(runs, keys, over)) if key in runs.columns and key not in keys]
    table = pd.DataFrame({"fate": fates(runs, metric), "run_id": runs["run_id"]})
    table["value"] = runs[metric] if metric in runs.columns else math.nan
    costs = [name for name in COSTS if name in runs.columns]
    rows: dict[tuple[Hashable, ...], list[dict[Hashable, Any]]] = {}
    rest: tuple[Any, ...] = ((),) * len(runs)
    every = zip(
        table.to_dict("records"),
        runs[keys].itertuples(index=False) if keys else rest,
        runs[averaged].itertuples(index=False) if averaged else rest,
        runs[costs].to_dict("records") if costs else [{}] * len(runs),
        strict=True,
    )
    for row, own, block, cost in every:
        values: dict[Hashable, Any] = {
            "own": dict(zip(keys, own, strict=True)),
            "block": tuple(map(group_key, block)),
            "costs": cost,
        }
        rows.setdefault(tuple(map(group_key, own)), []).append({**row, **values})
    info = metric_info(metric)
    within = (0.0, 1.0) if info is not None and info.form.endswith("%") else (-math.inf, math.inf)
    return [_setting(group, within) for group in rows.values()]


def _setting(rows: Sequence[Mapping[Hashable, Any]], within: tuple[float, float]) -> Setting:
    """Returns the setting of some runs; its interval ends where the metric does."""
    counted = [row for row in rows if row["fate"] == "counted"]
    mean, low, high = map(float, mean_interval(np.array([row["value"] for row in counted], dtype=np.float64)))
    low, high = (bound if math.isnan(bound) else min(max(bound, within[0]), within[1]) for bound in (low, high))
    samples: dict[tuple[Hashable, ...], float] = {}
    for row in counted:
        block, again = row["block"], 0
        while (*block, again) in samples:  # runs that differ in something that was not asked for
            again += 1
        samples[(*block, again)] = float(row["value"])
    fate = Counter(row["fate"] for row in rows)
    counts = {name: fate[name] for name in ("unfinished", "failed", "diverged", "missing")}
    costs = {}
    for name in counted[0]["costs"] if counted else ():
        known = [float(row["costs"][name]) for row in counted if not pd.isna(row["costs"][name])]
        if len(known) == len(counted):
            costs[name] = math.fsum(known) / len(known)
    ids = tuple(str(row["run_id"]) for row in counted)
    return Setting(rows[0]["own"], len(counted), mean, low, high, ids, **counts, samples=samples, costs=costs)
