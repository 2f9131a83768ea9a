"""Parallel coordinates: an axis a parameter, a line a setting, coloured by what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.parameters import short_names, shortened
from analysis.plots.results import Results, require_keys, results_of
from analysis.plots.scale import Scale, scale_of
from analysis.plots.style import COLORS, FAILED, PALEST, new_figure, notes_legend, text_note
from gpt_opt.records.metrics import is_percent

MOST = 10
"""Parameters, at most."""

SPREAD = 0.06
"""How far lines through one value are spread, at most, as a part of its axis."""

LIMIT = 16
"""Characters of a value at an axis."""

GONE = -0.1
"""Height at which lines of settings end that diverged."""


def _spread(heights: Sequence[float]) -> list[float]:
    """Returns heights in which lines through one value lie side by side; settings are in order of what came out."""
    distinct = sorted(set(heights))
    gap = min((second - first for first, second in pairwise(distinct)), default=1.0)
    room, seen, totals = min(SPREAD, gap / 3), Counter[float](), Counter(heights)
    found = []
    for height in heights:
        found.append(height + room * (seen[height] / max(1, totals[height] - 1) - 0.5) * (totals[height] > 1))
        seen[height] += 1
    return found


def _label_axis(axes: Axes, at: int, scale: Scale, right: bool) -> None:
    """Labels one vertical axis: at its left, or at its right for the last one."""
    texts = shortened(scale.labels, LIMIT)
    for tick, height in zip(scale.labels, scale.fractions(scale.ticks), strict=True):
        axes.plot([at - 0.015, at + 0.015], [height, height], color="black", linewidth=1, zorder=5)
        axes.text(
            at + (0.035 if right else -0.035),
            height,
            texts[tick],
            ha="left" if right else "right",
            va="center",
            fontsize=8,
            zorder=6,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )


def parallel(
    runs: pd.DataFrame, metric: str | None = None, by: Sequence[str] | None = None, over: str | None = "seed"
) -> Figure:
    """Draws parallel coordinates: each setting is a line through its values of all parameters, to its final metric.

    Better settings are darker and lie on top, the best one is thick. Settings that diverged are grey and end below the
    axis of the metric.

    Args:
        runs: What `load_runs` returned, or some of its rows.
        metric: Its name or the end of it; None for accuracy in evaluations, else evaluation loss.
        by: Config keys to draw, or the ends of them; None for all that vary.
        over: The config key over which settings are averaged; None draws each run.

    Raises:
        NothingToPlot: If fewer than two parameters vary, or no run has a final value.
    """
    results = results_of(runs, metric, over, by or ())
    wanted = results.keys if by is None else results.keys[: len(by)]
    require_keys(runs, wanted, 2, over)
    keys = wanted[:MOST]
    order = results.worst_first()
    scales = [scale_of([item.values[key] for item in order]) for key in keys]
    heights = [_spread(scale.fractions(scale.places)) for scale in scales]
    low, high = results.limits()
    norm = Normalize(low, high, clip=True)
    ends = [float(norm(item.mean)) if item.n else GONE for item in order]
    names = [*short_names(keys).values(), results.title]
    wide = max(1.7, 0.085 * max(map(len, names[:-1])))
    figure = new_figure(wide * len(keys) + 2.4, 4.6)
    axes = figure.subplots()
    best = results.best
    for index, item in enumerate(order):
        line = [*(column[index] for column in heights), ends[index]]
        goodness = 0.5 if not item.n else ends[index] if results.greater is not False else 1 - ends[index]
        color = COLORS(PALEST * (1 - goodness)) if item.n else (0.6, 0.6, 0.6, 1.0)
        width = 3.0 if item is best else 1.0
        style = "-" if item.n else ":"
        axes.plot(
            range(len(line)), line, color=color, linewidth=width, linestyle=style, alpha=1.0 if item is best else 0.7
        )
        if not item.n:
            axes.plot(len(keys), GONE, **FAILED)
    for at, scale in enumerate(scales):
        axes.axvline(at, 0, 1, color="black", linewidth=0.8, zorder=4)
        _label_axis(axes, at, scale, right=False)
    _metric_axis(axes, len(keys), results, low, high)
    axes.set_xlim(-0.25, len(keys) + 0.3)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    notes = results.notes()
    if best is not None:
        notes.insert(0, text_note("darker is better, thick: the best"))
    if further := len(wanted) - len(keys):
        notes.append(text_note(f"and {further} more that vary"))
    notes_legend(figure, notes)
    return figure


def _metric_axis(axes: Axes, at: int, results: Results, low: float, high: float) -> None:
    inside = [tick for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    labels = tuple(f"{100 * tick:.6g}%" if is_percent(results.metric) else f"{tick:g}" for tick in inside)
    axes.axvline(at, color="black", linewidth=0.8, zorder=4)
    _label_axis(axes, at, Scale("linear", (low, high), tuple(inside), labels), right=True)
    if any(not item.n for item in results.settings):
        axes.text(at + 0.035, GONE, "diverged", ha="left", va="center", fontsize=8)
