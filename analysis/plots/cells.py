"""A heat map: the final metric over two parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.answers import Setting
from analysis.parameters import short_names
from analysis.plots.results import Results, require_keys, results_of, varies
from analysis.plots.scale import Scale, scale_of, word_scale
from analysis.plots.style import (
    COLORS,
    FAILED,
    new_figure,
    notes_legend,
    percents,
    plain_axes,
    text_note,
)
from analysis.plots.ticks import separate_ticks
from gpt_opt.records.metrics import metric_text

MOST = 25
"""Distinct values of an axis up to which they are cells; more are points."""

WRITTEN = 150
"""Cells up to which their values are written in them."""

CROWD, SIZES = 200, (80, 20)
"""Points from which they are small; their areas in square points, of few and of many."""

BRIGHT = 0.6
"""Position on the colour map from which black text is read more easily than white."""


def _chosen(results: Results, scales: tuple[Scale, Scale]) -> dict[tuple[float, float], Setting]:
    """Returns the setting of each pair of places: the best of those that differ in what else varies."""
    found: dict[tuple[float, float], Setting] = {}
    for item, *place in zip(results.settings, scales[0].places, scales[1].places, strict=True):
        held = found.get((place[0], place[1]))
        sign = 1 if results.greater else -1
        if held is None or not held.n or (item.n and sign * item.mean > sign * held.mean):
            found[place[0], place[1]] = item
    return found


def _draw_cells(axes: Axes, cells: dict[tuple[float, float], Setting], results: Results, norm: Normalize) -> None:
    write = len(cells) <= WRITTEN
    for (x, y), item in cells.items():
        shade = float(norm(item.mean)) if item.n else 0.0
        color = COLORS(_toward(results, shade)) if item.n else (0.9, 0.9, 0.9, 1.0)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="white", linewidth=1))
        if item.n and write:
            ink = "black" if _toward(results, shade) > BRIGHT else "white"
            axes.text(x, y, metric_text(results.metric, item.mean), ha="center", va="center", color=ink, fontsize=8)
        elif not item.n:
            axes.plot(x, y, **{**FAILED, "markersize": 7})


def _toward(results: Results, shade: float) -> float:
    """Returns the position on the colour map: darker is better."""
    return 1 - shade if results.greater is not False else shade


def _draw_points(axes: Axes, results: Results, scales: tuple[Scale, Scale], norm: Normalize) -> None:
    rows = list(zip(*(scale.places for scale in scales), results.settings, strict=True))
    points = [(x, y, _toward(results, float(norm(item.mean)))) for x, y, item in rows if item.n]
    across, up, shades = zip(*points, strict=True)
    size = SIZES[len(points) > CROWD]
    axes.scatter(across, up, s=size, c=COLORS(np.array(shades)), edgecolors="black", linewidths=0.5, zorder=2)
    for x, y, item in rows:
        if not item.n:
            axes.plot(x, y, **{**FAILED, "markersize": 7})


def heat_map(
    runs: pd.DataFrame, metric: str | None = None, x: str | None = None, y: str | None = None, over: str | None = "seed"
) -> Figure:
    """Draws the final metric over two parameters.

    Each pair of values is a cell with the mean over seeds; where more than the two vary, the best of it all. Parameters
    with very many values, as random draws have, are axes with points in place of cells. Darker is better, a frame or a
    ring is the best, a cross a setting that diverged.

    Args:
        runs: What `load_runs` returned, or some of its rows.
        metric: Its name or the end of it; None for accuracy in evaluations, else evaluation loss.
        x: Config key of the horizontal axis, or the end of it; None for one that varies.
        y: That of the vertical axis.
        over: The config key over which settings are averaged; None draws each run.

    Raises:
        NothingToPlot: If fewer than two parameters vary, or no run has a final value.
        GptOptError: If the runs have no such config key.
    """
    results = results_of(runs, metric, over, [name for name in (x, y) if name is not None])
    require_keys(runs, [key for key in results.keys if varies(runs, key)], 2, over)
    keys = results.keys[1::-1] if x is None and y is not None else results.keys[:2]
    values = [[item.values[key] for item in results.settings] for key in keys]
    counts = [len(word_scale(column).ticks) for column in values]
    grid = max(counts) <= MOST
    across, up = (word_scale(column) if grid else scale_of(column) for column in values)
    low, high = results.limits()
    norm = Normalize(low, high, clip=True)
    names = short_names(keys)
    width, height = (max(5.0, 0.75 * counts[0] + 2.6), max(3.0, 0.42 * counts[1] + 1.8)) if grid else (7.2, 4.8)
    figure = new_figure(width, max(height, 0.1 * len(names[keys[1]]) + 1.8))
    axes = figure.subplots()
    across.apply(axes, "x")
    up.apply(axes, "y")
    best = results.best
    if grid:
        _draw_cells(axes, _chosen(results, (across, up)), results, norm)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    else:
        plain_axes(axes)
        _draw_points(axes, results, (across, up), norm)
    if best is not None:
        at = list(results.settings).index(best)
        _mark(axes, across.places[at], up.places[at], grid)
    axes.set(xlabel=names[keys[0]], ylabel=names[keys[1]])
    colors = COLORS.reversed() if results.greater is not False else COLORS
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, fraction=0.05, pad=0.02)
    percents(bar.ax.yaxis, results.metric)
    axes.set_title(results.title, fontsize=10)
    notes_legend(figure, [*_notes(results, keys, grid), *results.notes()])
    separate_ticks(figure)
    return figure


def _mark(axes: Axes, x: float, y: float, grid: bool) -> None:
    if grid:
        for color, width in (("black", 5.0), ("white", 2.0)):  # one of them shows on every cell
            frame = Rectangle((x - 0.46, y - 0.43), 0.92, 0.86, fill=False, edgecolor=color, linewidth=width)
            axes.add_patch(frame)
    else:
        axes.plot(x, y, marker="o", markersize=16, markerfacecolor="none", markeredgecolor="black", linestyle="")


def _notes(results: Results, keys: Sequence[str], grid: bool) -> list[Line2D]:
    others = [key for key in results.keys if key not in keys]
    shown = []
    if results.best is not None:
        shown.append(text_note(f"{'frame' if grid else 'ring'}: the best"))
    if others and grid and results.greater is not None:
        names = ", ".join(short_names(others).values())
        shown.append(text_note(f"a cell: the best over {names}"))
    return shown
