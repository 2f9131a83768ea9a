"""The settings of a sweep: runs that differ in the seed alone, their mean, and which runs are not in it and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.answers.fates import fates
from analysis.answers.stages import STAGE, stages
from analysis.parameters import LONG_NUMBER, follows, format_value, group_key, short_names, varying_parameters
from analysis.stats import mean_interval
from gpt_opt.records.metrics import is_percent, metric_text

OVER = "seed"
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
        ended: The directory of each of these runs, then of those that diverged, with its value of `over`: its seed.
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
    ended: Mapping[str, Hashable] = field(default_factory=dict)
    unfinished: int = 0
    failed: int = 0
    diverged: int = 0
    missing: int = 0
    samples: Mapping[tuple[Hashable, ...], float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def finals(self) -> list[float]:
        """The value of each run that its mean is over."""
        return list(self.samples.values())

    @property
    def folders(self) -> list[str]:
        """The directories of these runs."""
        return list(self.ended)[: self.n]

    @property
    def folder(self) -> str:
        """The directory of a run of it that ended, to start others like it from."""
        return next(iter(self.ended))

    @property
    def seeds(self) -> set[Any]:
        """The seeds of its runs that ended, be it by divergence."""
        return set(self.ended.values())

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


def settings(
    runs: pd.DataFrame,
    metric: str,
    by: Sequence[str] | None = None,
    over: str = OVER,
    fate: pd.Series | None = None,
) -> list[Setting]:
    """Returns the settings of a sweep, in the order of their first runs.

    Args:
        runs: What `load_runs` returned, or some of its rows.
        metric: The metric.
        by: The config keys whose values make a setting; None for all that vary but `over`. What else varies is averaged
            over together with `over`.
        over: The config key that runs of one setting differ in.
        fate: What `fates` returned of them, where it was asked of more runs than these.
    """
    keys = settings_by(runs, by, over)
    averaged = [key for key in (over, *averaged_over(runs, keys, over)) if key in runs.columns and key not in keys]
    costs = [name for name in COSTS if name in runs.columns]
    values = runs[metric] if metric in runs.columns else pd.Series(math.nan, runs.index)

    def rows(columns: list[str]) -> Iterable[tuple[Any, ...]]:
        return runs[columns].itertuples(index=False, name=None) if columns else [()] * len(runs)

    groups: dict[tuple[Hashable, ...], list[_Run]] = {}
    fate = fates(runs, metric) if fate is None else fate
    seeds = runs[over] if over in runs.columns else [None] * len(runs)
    fixed = (runs["run_id"], runs["path"], fate, values, seeds)
    for run in map(_Run, *fixed, rows(keys), rows(averaged), rows(costs)):
        groups.setdefault(tuple(map(group_key, run.own)), []).append(run)
    return [_setting(group, keys, costs, metric) for group in groups.values()]


class _Run(NamedTuple):
    """A run with its values of what makes its setting, of what that is averaged over, and its costs."""

    run_id: str
    path: str
    fate: str
    value: float
    seed: Any
    own: tuple[Any, ...]
    block: tuple[Any, ...]
    costs: tuple[Any, ...]


def _setting(runs: Sequence[_Run], keys: Sequence[str], cost_names: Sequence[str], metric: str) -> Setting:
    """Returns the setting of some runs; its interval ends where the metric does."""
    counted = [run for run in runs if run.fate == "counted"]
    mean, low, high = map(float, mean_interval(np.array([run.value for run in counted], dtype=np.float64)))
    if is_percent(metric) and len(counted) > 1:
        low, high = max(low, 0.0), min(high, 1.0)
    samples: dict[tuple[Hashable, ...], float] = {}
    for run in counted:
        block, again = tuple(map(group_key, run.block)), 0
        while (*block, again) in samples:  # runs that differ in something that was not asked for
            again += 1
        samples[(*block, again)] = float(run.value)
    fate = Counter(run.fate for run in runs)
    counts = {name: fate[name] for name in ("unfinished", "failed", "diverged", "missing")}
    costs = {}
    for name, values in zip(cost_names, zip(*(run.costs for run in counted), strict=True), strict=False):
        if not any(map(pd.isna, values)):
            costs[name] = math.fsum(map(float, values)) / len(values)
    values_of_keys = dict(zip(keys, runs[0].own, strict=True))
    ids = tuple(str(run.run_id) for run in counted)
    ended = {run.path: group_key(run.seed) for run in (*counted, *(run for run in runs if run.fate == "diverged"))}
    return Setting(values_of_keys, len(counted), mean, low, high, ids, ended, **counts, samples=samples, costs=costs)
