"""Learning curves small enough for a page: thinned with their extremes kept, numbers of four digits as integers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Values = npt.NDArray[np.float64]
Curve = tuple[npt.NDArray[np.int64], Values]

BUDGET = 400_000
"""Points of all curves of a report together: some 3 MB."""

MOST_POINTS, FEWEST_POINTS = 400, 8
"""Of one curve, however few or many curves there are."""

MAIN = 3
"""Curves of the metrics that are compared have so many times the points of others."""

_AXIS_POINTS = 24
"""Points of a curve that is nearly straight, as the time of each step is."""


def thinned(curve: Curve, most: int) -> Curve:
    """Returns a curve of at most about `most` points: the first, the last, the lowest and highest of equal parts."""
    steps, values = curve
    if len(steps) <= most:
        return curve
    parts = max(1, (most - 2) // 2)
    edges = np.linspace(1, len(steps) - 1, parts + 1).astype(int)
    kept = {0, len(steps) - 1}
    for start, end in pairwise(edges.tolist()):
        if end > start:
            part = values[start:end]
            kept |= {start + int(part.argmin()), start + int(part.argmax())}
    index = sorted(kept)
    return steps[index], values[index]


def points_each(lengths: Iterable[tuple[int, bool]], budget: int = BUDGET) -> int:
    """Returns how many points a curve may have so that all fit; those of main metrics may have `MAIN` times as many.

    Args:
        lengths: Points of each curve, and whether its metric is a main one.
        budget: Points of all of them together.
    """
    pairs = list(lengths)
    counts = np.array([length for length, _ in pairs])
    times = np.array([MAIN if is_main else 1 for _, is_main in pairs])
    low, high = FEWEST_POINTS, MOST_POINTS
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(counts, times * middle).sum() <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def packed(curve: Curve) -> dict[str, Any]:
    """Returns a curve as JSON: differences of its steps `s` in units `u`, values `v` in units of 10 ** -`d`.

    Values keep four digits of what is usual in the curve; a page divides them by 10 ** d.
    """
    steps, values = curve
    differences = np.diff(steps, prepend=0)
    unit = int(np.gcd.reduce(differences)) or 1
    usual = float(np.median(np.abs(values)))
    decimals = 4 if usual == 0 else max(-300, min(300, 3 - math.floor(math.log10(usual))))
    whole = [_rounded(value, decimals) for value in values.tolist()]
    return {"u": unit, "s": (differences // unit).tolist(), "d": decimals, "v": whole}


def _rounded(value: float, decimals: int) -> float | int:
    scaled = value * 10.0**decimals
    return round(scaled) if abs(scaled) < 1e15 else float(f"{scaled:.4g}") if math.isfinite(scaled) else 0


def _finite(steps: npt.NDArray[np.int64], values: Values) -> Curve:
    kept = np.isfinite(values)
    return steps[kept], values[kept]


def axis(steps: npt.NDArray[np.int64], values: Values) -> dict[str, Any] | None:
    """Returns the time or the tokens at steps, at as many of them as a page needs between which to interpolate."""
    steps, values = _finite(steps, values)
    if not len(steps):
        return None
    kept = np.unique(np.linspace(0, len(steps) - 1, _AXIS_POINTS).astype(int))
    return packed((steps[kept], values[kept]))


def pack_all(
    frames: Sequence[pd.DataFrame], metrics: Sequence[str], main: Iterable[str], budget: int = BUDGET
) -> list[dict[str, Any]]:
    """Returns the curves of each run by metric, and under `time` and `tokens` these at its steps.

    Args:
        frames: For each run its rows of `load_metrics`, ordered by step; may be empty.
        metrics: Which to take.
        main: Those that are compared.
        budget: Points of all curves together.
    """
    compared = set(main)
    curves: list[dict[str, Curve]] = [_curves(frame, metrics) for frame in frames]
    each = points_each(((len(curve[0]), name in compared) for run in curves for name, curve in run.items()), budget)
    found = []
    for frame, run in zip(frames, curves, strict=True):
        most = {name: each * (MAIN if name in compared else 1) for name in run}
        found.append({name: packed(thinned(curve, most[name])) for name, curve in run.items()} | _axes(frame))
    return found


def _curves(frame: pd.DataFrame, metrics: Sequence[str]) -> dict[str, Curve]:
    if not len(frame):
        return {}
    steps = frame["step"].to_numpy(dtype="int64")
    found = {name: _finite(steps, frame[name].to_numpy(dtype="float64")) for name in metrics if name in frame.columns}
    return {name: curve for name, curve in found.items() if len(curve[0])}


def _axes(frame: pd.DataFrame) -> dict[str, Any]:
    if not len(frame):
        return {}
    steps, times = frame["step"].to_numpy(dtype="int64"), frame["time"]
    seconds = (times - times.min()).dt.total_seconds().to_numpy(dtype="float64")
    axes = {"time": axis(steps, seconds)}
    if "tokens" in frame.columns:
        axes["tokens"] = axis(steps, frame["tokens"].to_numpy(dtype="float64"))
    return {name: item for name, item in axes.items() if item is not None}
