"""From rows of metrics to what is drawn: the curve of each run, smoothed, and the mean over seeds with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from analysis.parameters import format_value, group_key, varying_parameters
from analysis.stats import mean_interval

SMOOTHED = 500
"""Steps at which a smoothed curve is computed, at most; between them it is straight."""

BAND_FROM = 3
"""Runs from which their mean has a band; the interval of two is about nine times as far as they are apart."""


@dataclass(frozen=True)
class Curve:
    """Values of a metric of one run.

    Attributes:
        steps: Optimizer steps, ascending, shape (n,).
        x: Positions, shape (n,): the steps, tokens or seconds.
        y: Finite values, shape (n,).
    """

    steps: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def smoothed(self, width: float) -> Curve:
        """Returns the curve smoothed by local linear regression, which neither lags nor bends its ends.

        Args:
            width: Standard deviation of the Gaussian weights, as a fraction of its steps; 0 leaves it as it is.

        Source: Cleveland 1979, "Robust locally weighted regression and smoothing scatterplots", without the robustness.
        """
        if not width or len(self.steps) < 3:
            return self
        at = np.unique(np.linspace(0, len(self.steps) - 1, SMOOTHED).round().astype(int))
        steps = self.steps.astype(np.float64)
        apart = (steps[None, :] - steps[at][:, None]) / (width * (steps[-1] - steps[0]))
        weights = np.exp(-0.5 * apart**2)
        zeroth, first, second = (np.sum(weights * apart**power, axis=1) for power in range(3))
        level, slope = weights @ self.y, (weights * apart) @ self.y
        spread = zeroth * second - first**2
        local = np.where(
            spread > 1e-9 * zeroth**2, (second * level - first * slope) / np.maximum(spread, 1e-300), self.y[at]
        )
        return Curve(self.steps, self.x, np.interp(steps, steps[at], local))


@dataclass(frozen=True)
class Trace:
    """One line with what belongs to it.

    Attributes:
        line: The curve of a run, or the mean over runs.
        low: Lower ends of the 95 % interval of the mean, shape (n,); None of few runs.
        high: Upper ends of it.
        runs: The curves that it was made of, as they were logged; empty where a band, or the line itself, stands for
            them.
    """

    line: Curve
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    runs: tuple[Curve, ...] = ()


def curve_of(frame: pd.DataFrame, metric: str | None, void_at_zero: str | None = None) -> Curve | None:
    """Returns the finite values of a metric of one run, None when there are none.

    Args:
        frame: Its rows, with a column `x`.
        metric: Its name.
        void_at_zero: A metric that is exactly 0 where this one says nothing.
    """
    if metric is None or metric not in frame.columns:
        return None
    values, x = frame[metric].to_numpy(), frame["x"].to_numpy()
    kept = np.isfinite(values) & np.isfinite(x)
    if void_at_zero in frame.columns:
        kept &= frame[void_at_zero].to_numpy() != 0
    return Curve(frame["step"].to_numpy()[kept], x[kept], values[kept]) if kept.any() else None


def trace_of(curves: Sequence[Curve], failed: Sequence[bool], smooth: float) -> Trace:
    """Returns the line of runs that differ in the seed: their mean at the steps that all of them have logged.

    Runs that failed do not end the mean of the others, and do not enter it.

    Args:
        curves: One a run, at least one.
        failed: Whether each of them failed.
        smooth: Width of the smoothing, see `Curve.smoothed`.
    """
    whole = [curve for curve, ended in zip(curves, failed, strict=True) if not ended] or list(curves)
    lines = [curve.smoothed(smooth) for curve in whole]
    steps = reduce(np.intersect1d, (line.steps for line in lines))
    if len(lines) == 1 or not len(steps):
        longest = max(lines, key=lambda line: len(line.steps))
        return Trace(longest, runs=tuple(curves) if smooth or len(curves) > 1 else ())
    kept = [np.isin(line.steps, steps) for line in lines]
    x = np.mean([line.x[at] for line, at in zip(lines, kept, strict=True)], axis=0)
    mean, low, high = mean_interval(np.stack([line.y[at] for line, at in zip(lines, kept, strict=True)], axis=-1))
    if len(lines) < BAND_FROM:
        return Trace(Curve(steps, x, mean), runs=tuple(curves))
    return Trace(Curve(steps, x, mean), low, high, tuple(curves) if smooth or len(curves) > len(lines) else ())


def groups_over(runs: pd.DataFrame, over: str | None) -> list[list[int]]:
    """Returns the row numbers of runs that differ in one key alone, together; those without a config stand alone.

    Args:
        runs: What `load_runs` returned.
        over: The config key, usually `seed`; None for each run alone.
    """
    if over is None or over not in runs.columns:
        return [[row] for row in range(len(runs))]
    keys = [key for key in varying_parameters(runs) if key != over]
    found: dict[object, list[int]] = {}
    for row, (values, kind) in enumerate(zip(runs[keys].itertuples(index=False), runs[over], strict=True)):
        found.setdefault(row if group_key(kind) is None else tuple(map(format_value, values)), []).append(row)
    return list(found.values())
