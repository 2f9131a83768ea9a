"""What accuracy costs in KL: the frontier of preference runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answers import Setting, pareto
from analysis.parameters import run_order
from analysis.plots.looks import Looks, choose_looks
from analysis.plots.results import Results, results_of
from analysis.plots.scale import log_axis
from analysis.plots.style import (
    NothingToPlot,
    metric_title,
    new_figure,
    notes_legend,
    percents,
    plain_axes,
    present,
    text_note,
)
from analysis.plots.traces import BAND_FROM, curve_of, trace_of
from analysis.spacing import WIDE, log_spaced
from gpt_opt.errors import counted

REWARD = "eval/rewards/accuracies"
COST = "eval/kl"

_FRONT: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1, "zorder": 1.5}


def _points(
    runs: pd.DataFrame, reward: str, cost: str, over: str | None
) -> tuple[Results, list[tuple[Setting, Setting]]]:
    """Returns the settings that have both metrics, each with its two sides."""
    for metric in (reward, cost):
        if metric not in runs.columns or not runs[metric].notna().any():
            none = f"none of {counted(len(runs), 'run')} has one"
            raise NothingToPlot(f"a run with a value of {metric} is needed, but {none}; {present(runs)}")
    results, costs = results_of(runs, reward, over), results_of(runs, cost, over)
    of_runs = {tuple(item.folders): item for item in costs.settings if item.n}
    pairs = [(item, of_runs[own]) for item in results.settings if (own := tuple(item.folders)) in of_runs]
    if not pairs:
        raise NothingToPlot(f"finished runs with both {reward} and {cost} are needed, but none has both")
    return results, pairs


def _paths(
    axes: Axes, item: Setting, frames: Mapping[Any, pd.DataFrame], reward: str, cost: str, color: object
) -> None:
    """Draws how a setting came to its point, the mean over its runs."""
    logged = (frames[path] for path in item.folders if path in frames and cost in frames[path].columns)
    found = (curve_of(rows.assign(x=rows[cost]), reward, "eval/rewards/margins") for rows in logged)
    if curves := [curve for curve in found if curve is not None]:
        line = trace_of(curves, [False] * len(curves), 0.0).line
        axes.plot(line.x, line.y, color=color, linewidth=0.9, alpha=0.45, zorder=1)


def _draw_front(axes: Axes, pairs: Sequence[tuple[Setting, Setting]], cost: str) -> bool:
    """Draws the steps below which a setting is beaten by another one."""
    priced = [replace(item, costs={cost: other.mean}) for item, other in pairs]
    front = pareto(priced, True, cost)
    if len(front) < 2:
        return False
    axes.plot([item.costs[cost] for item in front], [item.mean for item in front], drawstyle="steps-post", **_FRONT)
    return True


def frontier(
    runs: pd.DataFrame,
    metrics: pd.DataFrame | None = None,
    reward: str = REWARD,
    cost: str = COST,
    over: str | None = "seed",
) -> Figure:
    """Draws accuracy against KL to the reference model at the end of preference runs.

    A point is the mean of a setting, its bars are 95 % intervals; the dashed steps join the settings that no other one
    beats in both. Thin lines are the ways to the points.

    Args:
        runs: What `load_runs` returned, or some of its rows.
        metrics: What `load_metrics` returned, for the ways to the points; None leaves them out.
        reward: The metric to gain.
        cost: The metric it costs.
        over: The config key over which settings are averaged; None draws each run.

    Raises:
        NothingToPlot: If no run has both metrics.
    """
    results, pairs = _points(runs, reward, cost, over)
    rows = [int(np.flatnonzero(runs["path"] == item.folder)[0]) for item, _ in pairs]
    order = run_order(runs.iloc[rows], results.keys)
    pairs = [pairs[index] for index in order]
    looks = _looks(runs.iloc[[rows[index] for index in order]], pairs, over)
    frames = {} if metrics is None else dict(tuple(metrics.groupby("path")))
    figure = new_figure(8.0, 4.8)
    axes = figure.subplots()
    plain_axes(axes)
    for (item, other), look in zip(pairs, looks.of_line, strict=True):
        _paths(axes, item, frames, reward, cost, look.color)
        errors = [[[abs(side.mean - end)] for end in (side.low, side.high)] for side in (other, item)]
        known = item.n >= BAND_FROM
        axes.errorbar(
            other.mean, item.mean, *((errors[1], errors[0]) if known else ()), color=look.color, capsize=2,
            marker=look.marker or "o", markersize=8, elinewidth=0.9, markeredgecolor="black", markeredgewidth=0.6,
            zorder=1.2 if look.pale else 3,
        )  # fmt: skip
    values = [other.mean for _, other in pairs]
    if min(values) > 0 and max(values) / min(values) >= WIDE and log_spaced(values):
        log_axis(axes, "x", min(values), max(values))
    front = _draw_front(axes, pairs, cost)
    axes.set(xlabel=f"{metric_title(cost)} at the end", ylabel=results.title)
    percents(axes.yaxis, reward)
    looks.explain(figure, [axes])
    notes = [Line2D([], [], **_FRONT, label="no other is better in both")] if front else []
    if any(item.n >= BAND_FROM for item, _ in pairs):
        notes.append(text_note(f"mean over {over}, bars: 95% intervals"))
    notes_legend(figure, [*notes, *results.notes()])
    return figure


def _looks(first: pd.DataFrame, pairs: Sequence[tuple[Setting, Setting]], over: str | None) -> Looks:
    """Returns looks of points: each has the marker of its name."""
    shown = first.drop(columns=over) if over in first.columns else first
    looks = choose_looks(shown, [-item.mean for item, _ in pairs], [item.n for item, _ in pairs])
    named = {look.color: replace(look, style="") for _, look in looks.names}
    return replace(
        looks,
        of_line=[named.get(look.color, look) for look in looks.of_line],
        names=[(name, named[look.color]) for name, look in looks.names],
    )
