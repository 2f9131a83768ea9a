"""Learning curves: a panel a metric, a line a setting, with a band over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.parameters import run_order, shown_parameters
from analysis.plots.horizontal import X, label_axes, positions
from analysis.plots.looks import BEST, FEW, OTHERS, WORST, Looks, choose_looks
from analysis.plots.panels import Lines, Panel, panels_of
from analysis.plots.scale import log_axis
from analysis.plots.style import (
    FAILED,
    Look,
    NothingToPlot,
    failed_note,
    notes_legend,
    panel_grid,
    percents,
    plain_axes,
    present,
    text_note,
)
from analysis.plots.traces import BAND_FROM, Curve, Trace, groups_over
from gpt_opt.errors import GptOptError, counted
from gpt_opt.records.state import State

LOG_SCALE_FROM = 20.0
"""Ratio of the largest to the smallest final value from which the axis of a KL is logarithmic."""

CUT_ABOVE = 3.0
"""A loss beyond this many times the highest first loss is cut off: one diverged run would flatten all others."""

BAND_ROOM = 0.3
"""Fraction of the range of the lines that bands may add at either end; the interval of two seeds is huge."""

MARKS = 20
"""Markers on a line, about."""


def _cut_diverged(axes: Axes, curves: Sequence[Curve]) -> None:
    """Limits a loss panel to what is worth seeing when a run has diverged."""
    first = max(float(curve.y[0]) for curve in curves)
    if first > 0 and max(float(curve.y.max()) for curve in curves) > CUT_ABOVE * first:
        lowest = min(float(curve.y.min()) for curve in curves)
        axes.set_ylim(lowest - 0.05 * first, CUT_ABOVE / 2 * first)
        axes.set_title(f"{axes.get_title()}, cut at {CUT_ABOVE / 2 * first:.3g}")


def _log_if_wide(axes: Axes, curves: Sequence[Curve]) -> None:
    """Makes the axis logarithmic when runs end at different orders of magnitude; what is 0 at the start is left out."""
    last = [float(curve.y[-1]) for curve in curves if curve.y[-1] > 0]
    lowest = min((float(curve.y.min()) for curve in curves), default=-1.0)
    if last and lowest >= 0 and max(last) / min(last) >= LOG_SCALE_FROM:
        positive = [float(curve.y[curve.y > 0].min()) for curve in curves if (curve.y > 0).any()]
        log_axis(axes, "y", min(positive), max(float(curve.y.max()) for curve in curves))


def _draw_trace(axes: Axes, trace: Trace, look: Look, few: bool) -> None:
    for run in trace.runs:
        axes.plot(run.x, run.y, color=look.color, linewidth=0.7, alpha=0.25, zorder=0 if look.pale else 1.2)
    marker = look.marker if len(trace.line.x) > 1 else look.marker or "o"  # a single value has no line
    line: dict[str, Any] = {"color": look.color, "linestyle": look.style, "marker": marker, "markersize": 4}
    axes.plot(
        trace.line.x,
        trace.line.y,
        **line,
        linewidth=1.8 if few else 0.8 if look.pale else 1.3,
        markevery=max(1, len(trace.line.x) // MARKS),
        zorder=1.5 if look.pale else 2,
    )


def _draw_bands(axes: Axes, traces: Sequence[tuple[Trace, Look]]) -> None:
    """Draws the intervals; the axis makes a little room for them at most."""
    low, high = axes.get_ylim()
    ends = [low, high]
    for trace, look in traces:
        if trace.low is not None and trace.high is not None and not look.pale:
            axes.fill_between(trace.line.x, trace.low, trace.high, color=look.color, alpha=0.18, linewidth=0)
            ends += [float(np.nanmin(trace.low)), float(np.nanmax(trace.high))]
    if axes.get_yscale() == "log":
        ends = [end for end in ends if end > 0]
    room = BAND_ROOM * (high - low)
    axes.set_ylim(max(min(ends), low - room), min(max(ends), high + room))


def _draw_panel(axes: Axes, panel: Panel, settings: Sequence[Lines], looks: Sequence[Look]) -> None:
    main = [setting.trace(panel, False) for setting in settings]
    train = [setting.trace(panel, True) for setting in settings]
    evaluated = any(trace is not None for trace in main)
    front, behind = (main, train) if evaluated else (train, [])
    drawn = [(trace, look) for trace, look in zip(front, looks, strict=True) if trace is not None]
    few = len(drawn) <= FEW
    for back, look in zip(behind, looks, strict=False):
        if back is not None:
            order = 0 if look.pale else 1
            axes.plot(back.line.x, back.line.y, color=look.color, linewidth=0.8, alpha=0.7, zorder=order)
    for trace, look in drawn:
        _draw_trace(axes, trace, look, few)
    for setting in settings:
        for end in setting.ends(panel):
            axes.plot(*end, **FAILED)
    trained = any(trace is not None for trace in train)
    detail = {(True, True): " (bold: eval, thin: train)", (True, False): " (train)"}.get((trained, evaluated), "")
    axes.set_title(panel.title + (detail if panel.train is not None else ""))
    percents(axes.yaxis, panel.metric)
    curves = [trace.line for trace in (*main, *train) if trace is not None]
    if panel.log:
        _log_if_wide(axes, curves)
    _draw_bands(axes, drawn)
    if panel.train is not None:
        _cut_diverged(axes, curves)


def _notes(settings: Sequence[Lines], looks: Looks, drawn: Sequence[bool], smooth: float) -> list[Line2D]:
    """Returns what the legend says beside names: runs that failed, have no name, or have nothing to draw."""
    notes = []
    if number := sum(sum(setting.failed) for setting in settings):
        notes.append(failed_note(number))
    others = sum(
        len(setting.frames)
        for setting, look, shown in zip(settings, looks.of_line, drawn, strict=True)
        if look is OTHERS and shown
    )
    if others:
        label = f"{counted(others, 'other run')} between the best {BEST} and the worst {WORST}"
        notes.append(Line2D([], [], color=OTHERS.color, linewidth=3, label=label))
    if empty := sum(len(setting.frames) for setting, shown in zip(settings, drawn, strict=True) if not shown):
        notes.append(text_note(f"{counted(empty, 'run')} without a value to draw"))
    sizes = sorted({len(setting.frames) for setting, shown in zip(settings, drawn, strict=True) if shown})
    if sizes and sizes[-1] > 1:
        seeds = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
        band = "band: its 95% interval" if sizes[-1] >= BAND_FROM else "faint: each run"
        notes.append(text_note(f"line: mean of {seeds} runs, {band}"))
    if smooth:
        notes.append(text_note("faint: as logged"))
    return notes


def curves(
    runs: pd.DataFrame,
    metrics: pd.DataFrame,
    metric: str | Sequence[str] | None = None,
    x: X = "step",
    smooth: float = 0.0,
    over: str | None = "seed",
) -> Figure:
    """Draws the learning curves of runs.

    Args:
        runs: What `load_runs` returned, or some of its rows; only these are drawn.
        metrics: What `load_metrics` returned.
        metric: One or several metrics, a panel each; by default those of `panels_of` that some run has.
        x: The horizontal axis: `step`, `tokens`, or `time` since the first logged value.
        smooth: Width of the smoothing as a fraction of the steps, from 0 (none) to 1; 0.03 is a little. The logged
            values stay as faint lines.
        over: Runs that differ in this config key alone are one line, their mean, with a band for its 95 % interval;
            None draws every run.

    Returns:
        A figure with a panel a metric; a panel that no run has data for is left out.

    Raises:
        NothingToPlot: If no run has any of the metrics.
        GptOptError: If `smooth` is not such a fraction.
    """
    if not 0 <= smooth <= 1:
        raise GptOptError(f"smooth must be a fraction of the steps, 0 to 1, but is {smooth}; 0.03 smooths a little")
    names = [name for name in shown_parameters(runs) if name != over]
    runs = runs.iloc[run_order(runs, [*names, over] if over is not None and over in runs.columns else names)]
    groups, frames = groups_over(runs, over), _frames(runs, metrics, x)
    failed = [state == State.FAILED for state in runs["state"]]
    settings = [Lines(tuple(frames[i] for i in rows), tuple(failed[i] for i in rows), smooth) for rows in groups]
    wanted = panels_of(metric, [name for name in metrics.columns if metrics[name].notna().any()])
    panels = [panel for panel in wanted if any(s.curves(panel, False) or s.curves(panel, True) for s in settings)]
    if not panels:
        raise NothingToPlot(_nothing(runs, metrics, wanted, x))
    ranks = [setting.rank(panels) for setting in settings]
    first = runs.iloc[[rows[0] for rows in groups]]
    first = first.drop(columns=over) if over in first.columns and len(groups) < len(runs) else first
    looks = choose_looks(first, ranks, [len(rows) for rows in groups])
    figure, axes = panel_grid(len(panels), {1: 1, 2: 2, 4: 2}.get(len(panels), 3), (5.2, 4.0), (2.2, 0.0), same_x=True)
    for one, panel in zip(axes, panels, strict=True):
        _draw_panel(one, panel, settings, looks.of_line)
        plain_axes(one)
    label_axes(axes, x, np.nanmax(np.concatenate([frame["x"] for frame in frames])))
    looks.explain(figure, axes)
    notes_legend(figure, _notes(settings, looks, [rank is not None for rank in ranks], smooth))
    return figure


def _frames(runs: pd.DataFrame, metrics: pd.DataFrame, x: X) -> list[pd.DataFrame]:
    """Returns the rows of each run with their positions, column `x`."""
    by_path = dict(tuple(metrics.groupby("path")))
    pairs = [(by_path.get(run["path"], metrics.iloc[:0]), run) for _, run in runs.iterrows()]
    return [rows.assign(x=positions(rows, run, x)) for rows, run in pairs]


def _nothing(runs: pd.DataFrame, metrics: pd.DataFrame, wanted: Sequence[Panel], x: X) -> str:
    names = ", ".join(dict.fromkeys(name for panel in wanted for name in (panel.train, panel.metric) if name))
    rows = metrics[metrics["path"].isin(runs["path"])]
    known = present(rows)
    where = " and a count of tokens, which finished runs have," if x == "tokens" else ""
    none = f"none of {counted(len(runs), 'run')} has one"
    return f"a run with a logged value of {names}{where} is needed, but {none}; {known}"
