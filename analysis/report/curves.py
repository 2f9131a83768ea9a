"""Learning curves small enough for a page: thinned with their extremes kept, numbers of four digits as integers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Values = npt.NDArray[np.float64]
Curve = tuple[npt.NDArray[np.int64], Values]

BUDGET = 340_000
"""Points of all curves of a report together: some 2.5 MB."""

MOST_POINTS, FEWEST_POINTS = 400, 8
"""Of one curve, however few or many curves there are."""

MAIN = 3
"""Curves of the metrics that are compared have so many times the points of others."""

_LARGEST = 2.0**53
"""Up to it a browser has every integer; only runs that diverged go beyond."""

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


def points_each(lengths: Iterable[tuple[int, bool]], budget: int) -> int:
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
    usual = float(np.sort(np.abs(values))[len(values) // 2])
    decimals = 4 if usual == 0 else max(-300, min(300, 3 - math.floor(math.log10(usual))))
    scaled = np.rint(values * 10.0**decimals)
    small = np.abs(scaled).max() < _LARGEST
    return {
        "u": unit,
        "s": (differences // unit).tolist(),
        "d": decimals,
        "v": (scaled.astype("int64") if small else np.nan_to_num(scaled)).tolist(),
    }


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
    rows: pd.DataFrame, paths: Sequence[str | None], metrics: Sequence[str], main: Iterable[str]
) -> list[dict[str, Any]]:
    """Returns the curves of each run by metric, and under `time` and `tokens` these at its steps.

    Args:
        rows: What `load_metrics` returned.
        paths: Of the runs; None of one that has no directory.
        metrics: Which to take.
        main: Those that are compared.
    """
    places: Mapping[Any, Any] = rows.groupby("path").indices if len(rows) else {}
    steps = rows["step"].to_numpy(dtype="int64")
    columns = {name: rows[name].to_numpy(dtype="float64") for name in metrics if name in rows.columns}
    compared, nowhere = set(main), np.array([], dtype=np.intp)
    of_run = [places.get(path, nowhere) if path is not None else nowhere for path in paths]
    curves = [_curves(steps[where], columns, where) for where in of_run]
    each = points_each(((len(curve[0]), name in compared) for run in curves for name, curve in run.items()), BUDGET)
    axes = {"time": rows["time"].astype("int64").to_numpy() / 1e6} if len(rows) else {}  # it counts microseconds
    if "tokens" in rows.columns:
        axes["tokens"] = rows["tokens"].to_numpy(dtype="float64")
    found = []
    for where, run in zip(of_run, curves, strict=True):
        most = {name: each * (MAIN if name in compared else 1) for name in run}
        packs = {name: packed(thinned(curve, most[name])) for name, curve in run.items()}
        found.append(packs | _axes(steps[where], {name: values[where] for name, values in axes.items()}))
    return found


def _curves(
    steps: npt.NDArray[np.int64], columns: Mapping[str, Values], where: npt.NDArray[np.intp]
) -> dict[str, Curve]:
    found = {name: _finite(steps, values[where]) for name, values in columns.items()} if len(where) else {}
    return {name: curve for name, curve in found.items() if len(curve[0])}


def _axes(steps: npt.NDArray[np.int64], values: Mapping[str, Values]) -> dict[str, Any]:
    if not len(steps):
        return {}
    known = {name: axis(steps, item - item.min() if name == "time" else item) for name, item in values.items()}
    return {name: item for name, item in known.items() if item is not None}
