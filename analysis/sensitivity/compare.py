"""For each optimizer the settings that were tried, the best of each learning rate and of all, and what to run next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from analysis.answers.edges import Optimum, further_values, optimum
from analysis.answers.settings import Setting, settings
from analysis.next_sweeps import Member, other_values, with_seeds
from analysis.parameters import format_value, varying_parameters
from analysis.sensitivity.budget import Asked

DIGITS = 3
"""Significant digits of a target that the user did not give."""


@dataclass(frozen=True)
class Curve:
    """What was tried of one optimizer.

    Attributes:
        name: Of the optimizer.
        tuned: Config columns beside the axis that vary.
        profile: For every value of the axis, ascending, the setting with the best mean.
        at: The value with the best of these.
        seeds: The seeds that all settings have, by which the best is chosen; further ones of some then change no
            choice. Empty where there are none: each setting is judged by those it has.
    """

    name: str
    tuned: tuple[str, ...]
    profile: Mapping[float, Setting]
    at: float
    seeds: frozenset[Any]

    @property
    def best(self) -> Setting:
        """The best setting of all."""
        return self.profile[self.at]

    @property
    def optimum(self) -> Optimum:
        """Where the best value of the axis lies. A value at which runs diverge was tried, so it bounds the optimum."""
        return optimum(list(self.profile), self.at) if self.best.n else "none"


def mean(values: Sequence[float]) -> float:
    """Returns the mean, NaN of nothing."""
    return fmean(values) if values else math.nan


def spread(values: Sequence[float]) -> float:
    """Returns the standard deviation over seeds, with n - 1; NaN of fewer than two values."""
    return stdev(values) if len(values) > 1 else math.nan


def _mean_over(setting: Setting, seeds: set[Any], asked: Asked) -> float:
    """Returns the mean over some seeds, or over all for none; the worst infinity if one of them diverged."""
    ended = zip(setting.ended.values(), [*setting.finals, *[asked.worse()] * setting.diverged], strict=True)
    return fmean(value for seed, value in ended if not seeds or seed in seeds)


def _curve(name: str, runs: pd.DataFrame, fate: pd.Series, asked: Asked) -> Curve:
    tuned = [column for column in varying_parameters(runs) if column not in (asked.by, asked.axis, "seed")]
    found = settings(runs, asked.metric, [asked.axis, *tuned], fate=fate[runs.index])
    seeds = set.intersection(*(item.seeds for item in found))
    ranked = sorted(found, key=lambda item: (asked.key(_mean_over(item, seeds, asked)), item.values[asked.axis]))
    best_of = {item.values[asked.axis]: item for item in reversed(ranked)}
    at = ranked[0].values[asked.axis]
    return Curve(name, tuple(tuned), {value: best_of[value] for value in sorted(best_of)}, at, frozenset(seeds))


def curves(runs: pd.DataFrame, reasons: pd.Series, asked: Asked) -> list[Curve]:
    """Returns what was tried of every optimizer, the best first.

    Args:
        runs: What `load_runs` returned.
        reasons: What `left_out` returned of them: runs that are not left out are compared, runs that diverged bound
            where optima can lie if their planned number of steps is that of a compared run.
        asked: What to compare.
    """
    compared = reasons == ""
    steps = set(runs.loc[compared, "total_steps"].dropna())
    axis = pd.to_numeric(runs[asked.axis], errors="coerce")
    bounds = (reasons == "diverged") & runs["total_steps"].isin(steps) & (axis > 0)
    fate = reasons.mask(compared, "counted")
    kept = runs.assign(**{asked.axis: axis})[compared | bounds]
    found = [_curve(format_value(name), rows, fate, asked) for name, rows in kept.groupby(asked.by, dropna=False)]
    return sorted(found, key=lambda curve: asked.key(mean(curve.best.finals) if curve.best.n else asked.worse()))


def default_target(curves: Sequence[Curve], asked: Asked) -> float:
    """Returns what half of the optimizers end at or beyond: the median of the best means, rounded to the worse side."""
    values = sorted((mean(curve.best.finals) for curve in curves if curve.best.n), key=asked.key)
    value = values[(len(values) - 1) // 2] if values else math.nan
    if not value or math.isnan(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    units = value / unit
    return float(f"{(math.floor(units) if asked.greater else math.ceil(units)) * unit:.{DIGITS}g}")


def extension(curves: Iterable[Curve], axis: str) -> list[Member]:
    """Returns further values of the axis for each curve whose optimum lies at an edge.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    members = []
    for curve in curves:
        if values := further_values(list(curve.profile), curve.optimum):
            seeds = sorted(curve.seeds - {None}) or sorted(curve.best.seeds - {None})
            members.append(other_values(curve.best.folder, axis, values, seeds))
    return members


def more_seeds(curves: Iterable[Curve], count: int) -> list[Member]:
    """Returns `count` seeds for each best point that has fewer.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    known = [(curve.best, curve.best.seeds - {None}) for curve in curves if curve.best.n]
    return [with_seeds(best.folder, seeds, count) for best, seeds in known if len(seeds) < count]
