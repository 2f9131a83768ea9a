"""For each optimizer the points that were tried, the best of every learning rate, and the best of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from analysis.answers.edges import Optimum, optimum
from analysis.answers.fates import group_key
from analysis.parameters import format_value, sort_key, varying_parameters
from analysis.sensitivity.budget import Asked

DIGITS = 3
"""Significant digits of a target that the user did not give."""


@dataclass(frozen=True)
class Final:
    """The end of one run.

    Attributes:
        seed: Of the run; None where its config has none.
        value: Final value of the metric; the worst infinity of a run that diverged.
        path: The run directory.
    """

    seed: Any
    value: float
    path: str

    @property
    def diverged(self) -> bool:
        """Whether the run diverged."""
        return not math.isfinite(self.value)


@dataclass(frozen=True)
class Point:
    """Runs that differ in the seed alone.

    Attributes:
        axis: Their value of the axis.
        settings: What else was tuned, by config column.
        finals: One a run, by seed.
    """

    axis: float
    settings: Mapping[str, Any]
    finals: tuple[Final, ...]

    @property
    def seeds(self) -> set[Any]:
        """The seeds that were run to the end or to divergence."""
        return {final.seed for final in self.finals}

    @property
    def values(self) -> list[float]:
        """Final values of the runs that did not diverge."""
        return [final.value for final in self.finals if not final.diverged]

    def mean(self, seeds: set[Any]) -> float:
        """Returns the mean over some seeds, or over all where it has none of them; infinite if one diverged."""
        return fmean([final.value for final in self.finals if final.seed in seeds] or [f.value for f in self.finals])


@dataclass(frozen=True)
class Curve:
    """What was tried of one optimizer.

    Attributes:
        name: Of the optimizer.
        tuned: Config columns beside the axis that vary.
        profile: For every value of the axis, ascending, the point with the best mean.
        best: The best of these.
        seeds: The seeds that all points have, by which the best is chosen; further ones of some points then change no
            choice. Empty where there are none: each point is judged by those it has.
    """

    name: str
    tuned: tuple[str, ...]
    profile: tuple[Point, ...]
    best: Point
    seeds: frozenset[Any]

    @property
    def optimum(self) -> Optimum:
        """Where the best value of the axis lies. A value at which runs diverge was tried, so it bounds the optimum."""
        if not self.best.values:
            return "none"
        return optimum([point.axis for point in self.profile], self.best.axis)


def mean(values: Sequence[float]) -> float:
    """Returns the mean, NaN of nothing."""
    return fmean(values) if values else math.nan


def spread(values: Sequence[float]) -> float:
    """Returns the standard deviation over seeds, with n - 1; NaN of fewer than two values."""
    return stdev(values) if len(values) > 1 else math.nan


def _points(runs: pd.DataFrame, tuned: Sequence[str], asked: Asked) -> list[Point]:
    points: dict[tuple[Any, ...], list[Final]] = {}
    settings: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in runs.to_dict("records"):
        values = {column: row[column] for column in tuned}
        key = (float(row[asked.axis]), *(format_value(value) for value in values.values()))
        settings.setdefault(key, values)
        points.setdefault(key, []).append(Final(group_key(row.get("seed")), row["final"], row["path"]))
    return [
        Point(key[0], settings[key], tuple(sorted(finals, key=lambda final: sort_key(final.seed))))
        for key, finals in points.items()
    ]


def _curve(name: str, runs: pd.DataFrame, asked: Asked) -> Curve:
    tuned = [column for column in varying_parameters(runs) if column not in (asked.by, asked.axis, "seed")]
    points = _points(runs, tuned, asked)
    seeds = set.intersection(*(point.seeds for point in points))
    ranked = sorted(points, key=lambda point: (asked.key(point.mean(seeds)), point.axis))
    best_of: dict[float, Point] = {}
    for point in ranked:
        best_of.setdefault(point.axis, point)
    return Curve(name, tuple(tuned), tuple(best_of[axis] for axis in sorted(best_of)), ranked[0], frozenset(seeds))


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
    runs, bounds = runs[compared | bounds], bounds[compared | bounds]
    finals = runs.assign(final=runs[asked.metric].mask(bounds, asked.worse()))
    found = [_curve(format_value(name), rows, asked) for name, rows in finals.groupby(asked.by, dropna=False)]
    return sorted(found, key=lambda curve: asked.key(mean(curve.best.values) if curve.best.values else asked.worse()))


def default_target(curves: Sequence[Curve], asked: Asked) -> float:
    """Returns what half of the optimizers end at or beyond: the median of the best means, rounded to the worse side."""
    values = sorted((mean(curve.best.values) for curve in curves if curve.best.values), key=asked.key)
    value = values[(len(values) - 1) // 2] if values else math.nan
    if not value or math.isnan(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    units = value / unit
    return float(f"{(math.floor(units) if asked.greater else math.ceil(units)) * unit:.{DIGITS}g}")
