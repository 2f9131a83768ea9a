"""The figure of a sweep: learning curves of all runs, one panel a metric, coloured by what varies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.parameters import format_value, run_labels, run_order, short_names, shown_parameters
from gpt_opt.errors import GptOptError

Color = tuple[float, float, float, float]
Curve = tuple[np.ndarray, np.ndarray]

FEW_RUNS = 12
"""Up to here every run has its own colour and name; more are coloured by their first parameter."""

LEGEND_LIMIT = 36
"""Names in a legend, as many as fit beside the panels."""

LOG_SCALE_FROM = 20.0
"""Ratio of the largest to the smallest value from which a colour bar is logarithmic."""

BAR_TICKS = 6
"""Labelled values of a logarithmic colour bar."""

CUT_ABOVE = 3.0
"""A loss beyond this many times the highest first loss is cut off: one diverged run would flatten all others."""


UNKNOWN: Color = (0.6, 0.6, 0.6, 1.0)
"""Grey, for a run without a value on the colour bar."""


class NothingToPlot(GptOptError):
    """There are no metrics that could be drawn."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        metric: The evaluation metric.
        train: Its training counterpart, drawn pale behind it, or None.
        percent: Whether values are fractions to be shown as percentages.
        void_at_zero: A metric that is exactly 0 where this one says nothing, or None.
    """

    title: str
    metric: str
    train: str | None = None
    percent: bool = False
    void_at_zero: str | None = None


PANELS = (
    Panel("loss", "eval/loss", train="loss"),
    # Before training, policy and reference are equal: every pair is a tie, which counts as wrong.
    Panel("eval accuracy", "eval/rewards/accuracies", percent=True, void_at_zero="eval/rewards/margins"),
    Panel("eval reward margin", "eval/rewards/margins"),
    Panel("eval KL estimate", "eval/kl"),
)


@dataclass(frozen=True)
class _Colors:
    """The colour of every run, and what explains the colours: names in a legend, or a bar.

    Attributes:
        of_run: One colour a run.
        names: Text and colour of each legend entry.
        bar: Scale of the colour bar, or None when the legend explains.
        bar_label: What the bar shows.
    """

    of_run: list[Color]
    names: list[tuple[str, Color]]
    bar: ScalarMappable | None = None
    bar_label: str = ""


def _palette(count: int) -> list[Color]:
    """Returns `count` colours in order, dark to light; the palest yellow is left out because it vanishes on white."""
    return [colormaps["viridis"](position) for position in np.linspace(0.0, 0.88, count)]


def _bar_colors(values: Sequence[float], label: str) -> _Colors:
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    norm = LogNorm(low, high) if low > 0 and high / low >= LOG_SCALE_FROM else Normalize(low, high)
    color_map = colormaps["viridis"]
    of_run = [color_map(float(norm(value))) if math.isfinite(value) else UNKNOWN for value in values]
    return _Colors(of_run, [], ScalarMappable(norm, color_map), label)


def _group_colors(groups: Sequence[str]) -> _Colors:
    """Gives each distinct text of `groups` a colour, in order of first appearance."""
    distinct = list(dict.fromkeys(groups))
    palette = dict(zip(distinct, _palette(len(distinct)), strict=True))
    names = list(palette.items())
    if len(names) > LEGEND_LIMIT:
        more = f"and {len(names) - LEGEND_LIMIT + 1} more"
        names = [*names[: LEGEND_LIMIT - 1], (more, (1.0, 1.0, 1.0, 0.0))]
    return _Colors([palette[group] for group in groups], names)


def _choose_colors(runs: pd.DataFrame) -> _Colors:
    """Colours runs, which stand in order of what varies."""
    columns = shown_parameters(runs)
    if len(runs) <= FEW_RUNS or not columns:
        return _group_colors(run_labels(runs))
    first = runs[columns[0]]
    name = short_names(columns)[columns[0]]
    if first.nunique() > FEW_RUNS and pd.api.types.is_numeric_dtype(first) and not pd.api.types.is_bool_dtype(first):
        return _bar_colors(first.to_numpy(dtype="float64", na_value=math.nan).tolist(), name)
    values = [format_value(value) for value in first]
    counts = Counter(values)
    groups = [f"{name}={value}" + (f" ({counts[value]} runs)" if counts[value] > 1 else "") for value in values]
    return _group_colors(groups)


def _curve(frame: pd.DataFrame, name: str | None, void_at_zero: str | None = None) -> Curve | None:
    """Returns steps and finite values of a metric, or None when there are none."""
    if name is None or name not in frame.columns:
        return None
    values = frame[name].to_numpy()
    kept = np.isfinite(values)
    if void_at_zero in frame.columns:
        kept &= frame[void_at_zero].to_numpy() != 0
    return (frame["step"].to_numpy()[kept], values[kept]) if kept.any() else None


def _panel_curves(panel: Panel, frame: pd.DataFrame) -> tuple[Curve | None, Curve | None]:
    """Returns the evaluation curve and the training curve of a run."""
    return _curve(frame, panel.metric, panel.void_at_zero), _curve(frame, panel.train)


def _cut_diverged(axes: Axes, curves: Sequence[Curve]) -> None:
    """Limits a loss panel to what is worth seeing when a run has diverged."""
    first = max(float(values[0]) for _, values in curves)
    if first > 0 and max(float(values.max()) for _, values in curves) > CUT_ABOVE * first:
        lowest = min(float(values.min()) for _, values in curves)
        axes.set_ylim(lowest - 0.05 * first, CUT_ABOVE / 2 * first)
        axes.set_title(f"{axes.get_title()}, cut at {CUT_ABOVE / 2 * first:.3g}")


def _draw_panel(axes: Axes, panel: Panel, frames: Sequence[pd.DataFrame], colors: Sequence[Color]) -> None:
    main, train = zip(*(_panel_curves(panel, frame) for frame in frames), strict=True)
    evaluated = any(curve is not None for curve in main)
    few = len(frames) <= FEW_RUNS
    for curve, color in zip(train, colors, strict=True):
        if curve is not None:
            axes.plot(*curve, color=color, linewidth=0.8, alpha=0.35 if evaluated else 0.9, zorder=1)
    for curve, color in zip(main, colors, strict=True):
        if curve is not None:
            marker = "o" if len(curve[0]) <= (40 if few else 1) else ""
            axes.plot(*curve, color=color, linewidth=1.8 if few else 1.1, marker=marker, markersize=4, zorder=2)
    behind = any(curve is not None for curve in train)
    detail = {(True, True): " (bold: eval, pale: train)", (True, False): " (train)"}.get((behind, evaluated), "")
    axes.set(xlabel="step", title=panel.title + (detail if panel.train is not None else ""))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.tick_params(labelbottom=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if panel.train is not None:
        _cut_diverged(axes, [curve for curve in (*main, *train) if curve is not None])


def _explain(figure: Figure, panels: Sequence[Axes], colors: _Colors) -> None:
    if colors.bar is not None:
        bar = figure.colorbar(colors.bar, ax=list(panels), fraction=0.04, pad=0.02, format="%.2g")
        bar.set_label(colors.bar_label)
        if isinstance(colors.bar.norm, LogNorm):  # its own ticks, powers of ten, may be a single one
            bar.set_ticks(np.geomspace(*colors.bar.get_clim(), BAR_TICKS).tolist())
            bar.minorticks_off()
        return
    handles = [Line2D([], [], color=color, linewidth=3, label=name) for name, color in colors.names]
    size = 10 if len(handles) <= FEW_RUNS else 8
    figure.legend(handles=handles, loc="outside right upper", fontsize=size, frameon=False)


def plot_curves(runs: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Draws the learning curves of runs.

    Args:
        runs: What `load_runs` returned, or some of its rows; only these are drawn.
        metrics: What `load_metrics` returned.

    Returns:
        A figure of up to four panels (`PANELS`) against the step; a panel that no run has data for is left out.

    Raises:
        NothingToPlot: If no run has any of the metrics.
    """
    runs = runs.iloc[run_order(runs, shown_parameters(runs))]
    by_path = dict(tuple(metrics.groupby("path")))
    frames = [by_path.get(path, metrics.iloc[:0]) for path in runs["path"]]
    panels = [panel for panel in PANELS if any(any(_panel_curves(panel, frame)) for frame in frames)]
    if not panels:
        wanted = ", ".join(panel.metric for panel in PANELS)
        raise NothingToPlot(
            f"a run with at least one logged value of loss, {wanted} is needed, but none of {len(runs)} runs has one; "
            "`python -m analysis.summarize` shows their states"
        )
    rows, columns = (2, 2) if len(panels) == 4 else (1, len(panels))
    figure = Figure(figsize=(5.2 * columns + 2.2, 4.0 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    colors = _choose_colors(runs)
    for place, panel in zip(axes, panels, strict=True):
        _draw_panel(place, panel, frames, colors.of_run)
    _explain(figure, list(axes), colors)
    return figure
