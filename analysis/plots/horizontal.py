"""The horizontal axis of learning curves: steps, tokens or time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

X = Literal["step", "tokens", "time"]

PAUSE = 10.0
"""Intervals between two rows beyond this many times the usual one are pauses, in a run of several attempts."""


UNITS = ((3 * 3600.0, 3600.0, "h"), (3 * 60.0, 60.0, "min"), (0.0, 1.0, "s"))
"""Seconds from which a unit of time is used, its seconds, its name."""


def positions(rows: pd.DataFrame, run: pd.Series, x: X) -> np.ndarray:
    """Returns where the rows of one run lie, NaN where that is not known.

    Args:
        rows: Its rows of what `load_metrics` returned.
        run: Its row of what `load_runs` returned.
        x: `step`; `tokens`, as logged or by equal shares of the final count; `time`, seconds since the first row with
            the pauses between attempts left out.
    """
    steps = rows["step"].to_numpy(dtype="float64")
    if x == "step":
        return steps
    if x == "time":
        return _seconds(rows["time"], several=not pd.isna(run["attempt"]) and run["attempt"] > 1)
    if "tokens" in rows.columns and rows["tokens"].notna().any():
        return rows["tokens"].to_numpy(dtype="float64")
    known = not pd.isna(run["tokens"]) and not pd.isna(run["step"]) and run["step"] > 0
    return steps * (float(run["tokens"]) / float(run["step"]) if known else np.nan)


def _seconds(moments: pd.Series, several: bool) -> np.ndarray:
    seconds = (moments - moments.iloc[0]).dt.total_seconds().to_numpy(dtype="float64") if len(moments) else np.array([])
    gaps = np.diff(seconds, prepend=0.0)
    if several and len(gaps) > 2:
        usual = float(np.nanmedian(gaps[1:]))
        gaps[gaps > PAUSE * usual] = usual
    result: np.ndarray = np.cumsum(gaps)
    return result


def label_axes(panels: Sequence[Axes], x: X, longest: float) -> None:
    """Labels horizontal axes that end at `longest`; seconds become minutes or hours where they are many."""
    for axes in panels:
        axes.tick_params(labelbottom=True)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=x == "step"))
        axes.set_xlabel({"step": "step", "tokens": "training tokens", "time": "time"}[x])
        if x == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if x == "time":
        _, seconds, unit = next(item for item in UNITS if longest >= item[0])
        locator = MaxNLocator(nbins=6, steps=[1, 1.5, 2, 3, 5, 6, 10])
        for axes in panels:
            axes.set_xlabel(f"time since the first logged value ({unit})")
            axes.xaxis.set_major_locator(_Scaled(locator, seconds))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / seconds:g}"))


class _Scaled(MaxNLocator):
    """Round ticks in another unit."""

    def __init__(self, locator: MaxNLocator, seconds: float) -> None:
        super().__init__()
        self._inner, self._seconds = locator, seconds

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Returns places of ticks between two ends."""
        return np.asarray(self._inner.tick_values(vmin / self._seconds, vmax / self._seconds)) * self._seconds
