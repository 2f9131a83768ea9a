"""The final metric against each parameter that was swept, a panel a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answers import Setting
from analysis.parameters import short_names
from analysis.plots.results import Results, require_keys, results_of, varies
from analysis.plots.scale import Scale, scale_of
from analysis.plots.style import (
    COLORS,
    FAILED,
    notes_legend,
    panel_grid,
    percents,
    plain_axes,
    text_note,
)
from analysis.plots.ticks import separate_ticks
from analysis.plots.traces import BAND_FROM
from gpt_opt.errors import counted

MOST = 12
"""Panels, at most."""

LINE = COLORS(0.0)
DOT = COLORS(0.55)

_RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 13,
    "markerfacecolor": "none",
    "color": "black",
    "linestyle": "",
    "zorder": 4,
}
_DOT: dict[str, Any] = {"color": DOT, "linestyle": "", "marker": "o", "markersize": 4, "alpha": 0.7, "zorder": 2}
_BEYOND: dict[str, Any] = {"color": DOT, "linestyle": "", "markersize": 7, "zorder": 3}


def _draw_means(axes: Axes, places: Sequence[float], found: Sequence[Setting], scale: Scale) -> None:
    """Draws the only parameter that varies: means, their intervals, and a line where there is an order."""
    rows = sorted((pair for pair in zip(places, found, strict=True) if pair[1].n), key=lambda pair: pair[0])
    each = [(place, value) for place, item in rows for value in item.samples.values()]
    if len(each) > len(rows):
        axes.plot(*zip(*each, strict=True), **_DOT, label="a run")
    at, mean = [place for place, _ in rows], [item.mean for _, item in rows]
    for place, item in rows:
        if item.n >= BAND_FROM:
            ends = [[item.mean - item.low], [item.high - item.mean]]
            axes.errorbar(place, item.mean, ends, fmt="none", ecolor=LINE, capsize=4, elinewidth=1.2, zorder=2)
    axes.plot(at, mean, color=LINE, linestyle="", marker="o", markersize=6, zorder=2.5)
    if joined := _joined(scale, zip(at, mean, strict=True)):
        axes.plot(*zip(*joined, strict=True), color=LINE, linewidth=1.6, zorder=2.4)


def _draw_best(axes: Axes, places: Sequence[float], found: Sequence[Setting], results: Results, scale: Scale) -> None:
    """Draws all settings as dots, and the best of each value where values were tried with several others."""
    shown = [(place, item.mean) for place, item in zip(places, found, strict=True) if item.n]
    axes.plot(
        *zip(*shown, strict=True), **_DOT, label="a run" if all(item.n < 2 for item in found) else "a setting, the mean"
    )
    best: dict[float, float] = {}
    for place, value in shown:
        choose = max if results.greater else min
        best[place] = choose(best.get(place, value), value)
    if results.greater is not None and 2 * len(best) <= len(shown):
        marker, size = ("_", 18) if scale.kind == "words" else ("s", 6)
        style: dict[str, Any] = {"marker": marker, "markersize": size, "markeredgewidth": 2}
        label = "the best of each value"
        axes.plot(*zip(*best.items(), strict=True), color=LINE, linestyle="", zorder=2.5, **style, label=label)
        if joined := _joined(scale, best.items()):
            axes.plot(*zip(*joined, strict=True), color=LINE, zorder=2.4)


def _limits(results: Results) -> tuple[float, float]:
    """Returns the ends of the vertical axis, with room for what is drawn beside the means."""
    bottom, top = results.limits()
    ends = [bottom, top]
    if len(results.keys) == 1:
        shown = [item for item in results.settings if item.n and bottom <= item.mean <= top]
        ends += [value for item in shown for value in item.samples.values()]
        ends += [end for item in shown if item.n >= BAND_FROM for end in (item.low, item.high)]
    room = 0.06 * (max(ends) - min(ends)) or 0.05 * abs(top) or 1.0
    return min(ends) - room, max(ends) + room


def _joined(scale: Scale, points: Iterable[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Returns the points that a line joins, in order: none of words, and not the runs without a number."""
    return sorted(point for point in points if scale.kind != "words" and point[0] != scale.absent)


def _draw_panel(axes: Axes, key: str, results: Results) -> None:
    """Draws one parameter; what needs an explanation has a label."""
    found = list(results.settings)
    scale = scale_of([item.values[key] for item in found])
    scale.apply(axes)
    if len(results.keys) == 1:
        _draw_means(axes, scale.places, found, scale)
    else:
        _draw_best(axes, scale.places, found, results, scale)
    if (best := results.best) is not None:
        axes.plot(scale.places[found.index(best)], best.mean, **_RING, label="the best")
    bottom, top = _limits(results)
    axes.set_ylim(bottom, top)
    edge = axes.get_xaxis_transform()
    gone = [place for place, item in zip(scale.places, found, strict=True) if item.diverged]
    axes.plot(gone, [0.03 if results.greater else 0.97] * len(gone), transform=edge, **{**FAILED, "markersize": 7})
    far = [place for place, item in zip(scale.places, found, strict=True) if item.n and not bottom <= item.mean <= top]
    if far:
        mark, label = "v" if results.greater else "^", f"beyond the axis ({counted(len(far), 'run')})"
        axes.plot(
            far, [0.09 if results.greater else 0.91] * len(far), marker=mark, transform=edge, **_BEYOND, label=label
        )


def parameter(
    runs: pd.DataFrame, metric: str | None = None, by: str | Sequence[str] | None = None, over: str | None = "seed"
) -> Figure:
    """Draws the final metric against each parameter that varies.

    Where one parameter varies, these are the means over seeds with their 95 % intervals; where several do, a dot is the
    mean of one setting, and the line joins the best of each value. A ring is the best setting of all, a cross at the
    worse end a setting of which a run diverged. The axis is logarithmic where the values were chosen so.

    Args:
        runs: What `load_runs` returned, or some of its rows.
        metric: Its name or the end of it; None for accuracy in evaluations, else evaluation loss.
        by: Config keys to draw, or the ends of them; None for all that vary.
        over: The config key over which settings are averaged; None draws each run.

    Raises:
        NothingToPlot: If nothing varies, or no run has a final value.
    """
    asked = [by] if isinstance(by, str) else by or ()
    results = results_of(runs, metric, over, asked)
    wanted = [key for key in results.keys[: len(asked) or None] if varies(runs, key)]
    require_keys(runs, wanted, 1, over)
    shown = wanted[:MOST]
    columns = min(3, len(shown))
    wide = max(4.4, 6.4 / columns)
    figure, panels = panel_grid(len(shown), columns, (wide, 3.6), (0.0, 0.4))
    names = short_names(wanted)
    for index, (axes, key) in enumerate(zip(panels, shown, strict=True)):
        plain_axes(axes)
        axes.set_xlabel(names[key])
        if index % columns == 0:
            axes.set_ylabel(results.title)
            percents(axes.yaxis, results.metric)
        _draw_panel(axes, key, results)
    notes_legend(figure, _notes(results, panels, len(wanted) - len(shown), over))
    separate_ticks(figure)
    return figure


def _notes(results: Results, panels: Sequence[Axes], further: int, over: str | None) -> list[Line2D]:
    labelled = {str(line.get_label()): line for axes in reversed(panels) for line in axes.get_lines()}
    notes = [line for label, line in labelled.items() if not label.startswith("_")] + results.notes()
    if any(item.n > 1 for item in results.settings):
        one = len(results.keys) == 1 and any(item.n >= BAND_FROM for item in results.settings)
        notes.append(text_note(f"mean over {over}{' and its 95% interval' if one else ''}"))
    if further:
        notes.append(text_note(f"and {further} more that vary"))
    return notes
