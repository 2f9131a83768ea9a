"""The figure of a comparison: the best final value against the axis, a line an optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answers.metric import direction
from analysis.parameters import find_column, short_names, shortened, with_absent_values
from analysis.plots.scale import scale_of
from analysis.plots.style import (
    LABEL_LIMIT,
    Look,
    metric_title,
    names_legend,
    new_figure,
    palette,
    percents,
    plain_axes,
)
from analysis.plots.ticks import separate_ticks
from analysis.sensitivity.budget import AXIS, BY, Asked, budget, check_comparable, left_out
from analysis.sensitivity.compare import Curve, mean, spread
from analysis.sensitivity.compare import curves as curves_of

SHOWN = 0.75
"""Fraction of the values that the vertical axis shows at least; runs that all but diverged would flatten all others."""

_EDGE = {"lowest": " (low edge)", "highest": " (high edge)", "only": " (one value)", "none": " (all diverged)"}


def _draw(axes: Axes, curve: Curve, look: Look) -> None:
    at, tried = np.array(list(curve.profile)), curve.profile.values()
    means = np.array([math.nan if item.diverged else mean(item.finals) for item in tried])
    spreads = np.array([spread(item.finals) for item in tried])
    line = {"color": look.color, "linestyle": look.style, "linewidth": 1.6}
    axes.plot(at, means, **line, marker=look.marker, markersize=5, zorder=2)  # type: ignore[arg-type]
    seeds = np.isfinite(spreads) & np.isfinite(means)
    axes.fill_between(
        at, means - spreads, means + spreads, where=seeds.tolist(), color=look.color, alpha=0.2, linewidth=0
    )
    axes.errorbar(at[seeds], means[seeds], spreads[seeds], fmt="none", ecolor=look.color, capsize=3, zorder=3)
    if curve.best.n:
        best = (curve.at, mean(curve.best.finals))
        axes.plot(*best, marker="o", markersize=12, markerfacecolor="none", markeredgecolor=look.color, linestyle="")
    if gone := [value for value, item in curve.profile.items() if item.diverged]:
        top = axes.get_xaxis_transform()
        axes.plot(gone, [0.98] * len(gone), "x", color=look.color, transform=top, markeredgewidth=2, zorder=3)


def _limits(curves: Sequence[Curve], asked: Asked) -> tuple[float, float] | None:
    """Returns the ends of the vertical axis: every best value, and the better part of all."""
    values = [asked.key(mean(item.finals)) for curve in curves for item in curve.profile.values() if item.n]
    best = [asked.key(mean(curve.best.finals)) for curve in curves if curve.best.n]
    if not values:
        return None
    low, high = min(values), max(*best, float(np.quantile(values, SHOWN)), min(values))
    room = 0.06 * (high - low) or 0.01 * abs(low) or 1.0
    ends = sorted((asked.key(low - room), asked.key(high + room)))
    return ends[0], ends[1]


def draw(curves: Sequence[Curve], asked: Asked, tokens: int) -> Figure:
    """Draws a comparison of optimizers, the best first, after so many training tokens of each run.

    Bars and bands are the standard deviation over seeds, where there are several; a ring is the best point, a cross at
    the top a value at which a run diverged. The legend says which optima are not interior.
    """
    figure = new_figure(8.6, 4.8)
    axes = figure.subplots()
    names = shortened([curve.name for curve in curves], LABEL_LIMIT)
    looks = palette(len(curves))
    for curve, look in zip(curves, looks, strict=True):
        _draw(axes, curve, look)
    axes.set_xscale("log")
    scale_of(sorted({value for curve in curves for value in curve.profile})).apply(axes)
    if (ends := _limits(curves, asked)) is not None:
        axes.set_ylim(*ends)
    percents(axes.yaxis, asked.metric)
    axes.set(xlabel=short_names([asked.axis])[asked.axis], ylabel=f"{metric_title(asked.metric)} at the end")
    axes.set_title(f"after {tokens:,} tokens; ± 1 standard deviation over seeds", fontsize=10)
    plain_axes(axes)
    labels = [names[curve.name] + _EDGE.get(curve.optimum, "") for curve in curves]
    names_legend(figure, zip(labels, looks, strict=True))
    separate_ticks(figure)
    return figure


def sensitivity(runs: pd.DataFrame, metric: str = "eval/loss", by: str = BY, axis: str = AXIS) -> Figure:
    """Draws the best final metric of each learning rate, a line an optimizer, as `python -m analysis.sensitivity` does.

    Args:
        runs: What `load_runs` returned, or some of its rows.
        metric: Its name.
        by: Config key with a line for each of its values, or the end of it.
        axis: Config key of the axis, or the end of it.

    Raises:
        GptOptError: If the runs do not make a comparison; it says why.
    """
    runs = with_absent_values(runs)
    asked = Asked(metric, direction(metric, None), find_column(runs, by), find_column(runs, axis))
    reasons = left_out(runs, asked)
    compared = runs[reasons == ""]
    check_comparable(compared, asked)
    return draw(curves_of(runs, reasons, asked), asked, budget(compared, asked))
