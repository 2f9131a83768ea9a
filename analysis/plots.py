"""The figure of a sweep: learning curves of all runs, one panel a metric, coloured by what varies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.parameters import run_labels, run_order, short_names, short_values, shortened, shown_parameters
from gpt_opt.errors import GptOptError
from gpt_opt.records.metrics import EVALUATION, METRICS, MetricInfo, metric_label
from gpt_opt.records.state import State

Color = tuple[float, float, float, float]
Curve = tuple[np.ndarray, np.ndarray]
Style = Literal["-", "--", "-.", ":"]

FEW_RUNS = 12
"""Lines with a name of their own, at most; of more runs these are the best, the worst and some between."""

BEST, WORST = 6, 3
"""How many of them are the best and the worst of the runs."""

LABEL_LIMIT = 40
"""Characters of a name in the legend."""

LOG_SCALE_FROM = 20.0
"""Ratio of the largest to the smallest value from which a colour bar, or the axis of a KL, is logarithmic."""

BAR_TICKS = 6
"""Labelled values of a logarithmic colour bar."""

CUT_ABOVE = 3.0
"""A loss beyond this many times the highest first loss is cut off: one diverged run would flatten all others."""

STYLES: tuple[Style, ...] = ("-", "--", "-.", ":")
MARKS = 20
"""Markers on a line, about."""

MARKERS = "osD^vP*X<>hd"
"""What tells lines apart where colours do not: in print, and for those who see few of them."""


class NothingToPlot(GptOptError):
    """There are no metrics that could be drawn."""


@dataclass(frozen=True)
class Look:
    """How the lines of a run are drawn; pale ones are not meant to be told apart."""

    color: Color
    style: Style = "-"
    marker: str = "o"
    pale: bool = False


UNKNOWN = Look((0.6, 0.6, 0.6, 1.0), marker="")
"""Grey, for a run without a value on the colour bar."""

OTHERS = Look((0.8, 0.8, 0.8, 1.0), marker="", pale=True)
"""Pale grey, for runs without a name."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        metric: The evaluation metric.
        train: Its training counterpart, drawn pale behind it, or None.
        void_at_zero: A metric that is exactly 0 where this one says nothing, or None.
        log: Whether values that differ by orders of magnitude go on a logarithmic axis.
    """

    metric: str
    train: str | None = None
    void_at_zero: str | None = None
    log: bool = False

    @property
    def info(self) -> MetricInfo:
        """What is known of the metric."""
        return METRICS[self.metric.removeprefix(EVALUATION)]

    @property
    def title(self) -> str:
        """What it shows, with its unit."""
        label = self.info.label if self.train is not None else metric_label(self.metric)
        return f"{label} ({self.info.unit})" if self.info.unit else label


PANELS = (
    Panel("eval/loss", train="loss"),
    # Before training, policy and reference are equal: every pair is a tie, which counts as wrong.
    Panel("eval/rewards/accuracies", void_at_zero="eval/rewards/margins"),
    Panel("eval/rewards/margins"),
    Panel("eval/kl", log=True),
)


@dataclass(frozen=True)
class _Looks:
    """The look of every run, and what explains it: names in a legend, or a colour bar.

    Attributes:
        of_run: One a run.
        names: Text and look of each legend entry.
        bar: Scale of the colour bar, or None when the legend explains.
        bar_label: What the bar shows.
    """

    of_run: list[Look]
    names: list[tuple[str, Look]]
    bar: ScalarMappable | None = None
    bar_label: str = ""


def palette(count: int) -> list[Look]:
    """Returns `count` looks, dark to light; the palest yellow is left out because it vanishes on white."""
    colors = [colormaps["viridis"](position) for position in np.linspace(0.0, 0.88, count)]
    return [
        Look(color, STYLES[index % len(STYLES)], MARKERS[index % len(MARKERS)]) for index, color in enumerate(colors)
    ]


def _bar_looks(values: Sequence[float], label: str) -> _Looks:
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    norm = LogNorm(low, high) if low > 0 and high / low >= LOG_SCALE_FROM else Normalize(low, high)
    color_map = colormaps["viridis"]
    of_run = [Look(color_map(float(norm(value))), marker="") if math.isfinite(value) else UNKNOWN for value in values]
    return _Looks(of_run, [], ScalarMappable(norm, color_map), label)


def _group_looks(groups: Sequence[str | None]) -> _Looks:
    """Gives each distinct text of `groups` a look, in order of first appearance; None is one of the others."""
    names = list(dict.fromkeys(group for group in groups if group is not None))
    looks = dict(zip(names, palette(len(names)), strict=True))
    texts = shortened(names, LABEL_LIMIT)
    return _Looks(
        [OTHERS if group is None else looks[group] for group in groups],
        [(texts[name], look) for name, look in looks.items()],
    )


def _shown(runs: pd.DataFrame) -> list[str]:
    """Returns the parameters that vary, the seed last: it is of the least interest."""
    return sorted(shown_parameters(runs), key=lambda name: name == "seed")


def _labels(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Returns a name of each run, of the values of some columns, shortened to what tells them apart."""
    names = short_names(columns)
    if not names:
        return run_labels(runs)
    parts = []
    for column, name in names.items():
        values = short_values(runs[column], max(10, LABEL_LIMIT // len(names) - len(name) - 3))
        parts.append([f"{name}={value}" for value in values])
    return [", ".join(row) for row in zip(*parts, strict=True)]


def _named(frames: Sequence[pd.DataFrame]) -> set[int]:
    """Returns the indices of the runs that get a name: the best, the worst and some between, where there is data."""
    drawn = [index for index, frame in enumerate(frames) if _has_curve(frame)]
    if len(drawn) <= FEW_RUNS:
        return set(drawn)
    goal = next(panel for panel in PANELS if any(any(_panel_curves(panel, frames[index])) for index in drawn))
    order = sorted(drawn, key=lambda index: _last(goal, frames[index]) * (-1 if goal.info.greater_is_better else 1))
    between = order[BEST:-WORST]
    spread = np.linspace(0, len(between) - 1, FEW_RUNS - BEST - WORST + 2)[1:-1]
    return {*order[:BEST], *order[-WORST:], *(between[round(index)] for index in spread)}


def _last(panel: Panel, frame: pd.DataFrame) -> float:
    curves = [curve for curve in _panel_curves(panel, frame) if curve is not None]
    return float(curves[0][1][-1]) if curves else math.inf


def _has_curve(frame: pd.DataFrame) -> bool:
    return any(any(_panel_curves(panel, frame)) for panel in PANELS)


def _choose_looks(runs: pd.DataFrame, frames: Sequence[pd.DataFrame]) -> _Looks:
    """Chooses looks of runs, which stand in order of what varies."""
    drawn = [index for index, frame in enumerate(frames) if _has_curve(frame)]
    columns = _shown(runs.iloc[drawn])  # what a run without a curve alone has tells no lines apart
    if len(runs) > FEW_RUNS and columns:
        first = runs[columns[0]]
        name = short_names(columns)[columns[0]]
        if first.nunique() <= FEW_RUNS:
            values = short_values(first, LABEL_LIMIT - len(f"{name}= ({len(runs)} runs)"))
            counts = Counter(values)
            looks = _group_looks([f"{name}={v}" + (f" ({counts[v]} runs)" if counts[v] > 1 else "") for v in values])
            return replace(looks, of_run=[replace(look, marker="") for look in looks.of_run])
        if pd.api.types.is_numeric_dtype(first) and not pd.api.types.is_bool_dtype(first):
            return _bar_looks(first.to_numpy(dtype="float64", na_value=math.nan).tolist(), name)
    named = _named(frames)
    return _group_looks([label if index in named else None for index, label in enumerate(_labels(runs, columns))])


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


def _log_if_wide(axes: Axes, curves: Sequence[Curve]) -> None:
    """Makes the axis logarithmic when runs end at different orders of magnitude; what is 0 at the start is left out."""
    last = [float(values[-1]) for _, values in curves if values[-1] > 0]
    lowest = min((float(values.min()) for _, values in curves), default=-1.0)
    if last and lowest >= 0 and max(last) / min(last) >= LOG_SCALE_FROM:
        axes.set_yscale("log", nonpositive="mask")


def _draw_panel(
    axes: Axes, panel: Panel, frames: Sequence[pd.DataFrame], looks: Sequence[Look], failed: Sequence[bool]
) -> None:
    main, train = zip(*(_panel_curves(panel, frame) for frame in frames), strict=True)
    evaluated = any(curve is not None for curve in main)
    few = sum(curve is not None for curve in (main if evaluated else train)) <= FEW_RUNS
    for curve, look in zip(train, looks, strict=True):
        if curve is not None:
            alpha = 0.35 if evaluated else 0.9
            style: Style = "-" if evaluated else look.style
            order = 0 if look.pale else 1
            axes.plot(*curve, color=look.color, linestyle=style, linewidth=0.8, alpha=alpha, zorder=order)
    for curve, look in zip(main, looks, strict=True):
        if curve is not None:
            width = 1.8 if few else 0.8 if look.pale else 1.3
            marker = look.marker if len(curve[0]) > 1 else look.marker or "o"  # a single value has no line
            line: dict[str, Any] = {"color": look.color, "linestyle": look.style, "linewidth": width}
            axes.plot(
                *curve,
                **line,
                marker=marker,
                markersize=4,
                markevery=max(1, len(curve[0]) // MARKS),
                zorder=1.5 if look.pale else 2,
            )
    for shown, also, ended in zip(main, train, failed, strict=True):
        if ended and (curve := shown if shown is not None else also) is not None:
            axes.plot(curve[0][-1:], curve[1][-1:], **_FAILED)
    behind = any(curve is not None for curve in train)
    detail = {(True, True): " (bold: eval, pale: train)", (True, False): " (train)"}.get((behind, evaluated), "")
    axes.set(xlabel="step", title=panel.title + (detail if panel.train is not None else ""))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.tick_params(labelbottom=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    curves = [curve for curve in (*main, *train) if curve is not None]
    if panel.info.form.endswith("%"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if panel.train is not None:
        _cut_diverged(axes, curves)
    if panel.log:
        _log_if_wide(axes, curves)


_FAILED: dict[str, Any] = {
    "color": "black",
    "linestyle": "",
    "marker": "x",
    "markersize": 9,
    "markeredgewidth": 2,
    "zorder": 3,
}
"""The mark at the end of a run that failed."""


def _notes(frames: Sequence[pd.DataFrame], looks: _Looks, failed: Sequence[bool]) -> list[Line2D]:
    """Returns what the legend says beside names: runs that failed, have no name, or have nothing to draw."""
    drawn = [_has_curve(frame) for frame in frames]
    notes = []
    if number := sum(failed):
        notes.append(Line2D([], [], **_FAILED, label=f"failed ({_runs(number)})"))
    others = sum(look is OTHERS and shown for look, shown in zip(looks.of_run, drawn, strict=True))
    if others:
        label = f"{_runs(others, 'other ')} between the best {BEST} and the worst {WORST}"
        notes.append(Line2D([], [], color=OTHERS.color, linewidth=3, label=label))
    if empty := len(drawn) - sum(drawn):
        notes.append(Line2D([], [], linestyle="", label=f"{_runs(empty)} without a value to draw"))
    return notes


def _runs(number: int, kind: str = "") -> str:
    return f"{number} {kind}{'run' if number == 1 else 'runs'}"


def _explain(figure: Figure, panels: Sequence[Axes], looks: _Looks, notes: Sequence[Line2D]) -> None:
    if looks.bar is not None:
        bar = figure.colorbar(looks.bar, ax=list(panels), fraction=0.04, pad=0.02, format="%.2g")
        bar.set_label(looks.bar_label)
        if isinstance(looks.bar.norm, LogNorm):  # its own ticks, powers of ten, may be a single one
            bar.set_ticks(np.geomspace(*looks.bar.get_clim(), BAR_TICKS).tolist())
            bar.minorticks_off()
    else:
        handles = [
            Line2D([], [], color=look.color, linestyle=look.style, marker=look.marker, linewidth=2, label=name)
            for name, look in looks.names
        ]
        figure.legend(handles=handles, loc="outside right upper", fontsize=9, frameon=False, handlelength=3)
    if notes:
        figure.legend(handles=list(notes), loc="outside lower center", ncols=len(notes), fontsize=9, frameon=False)


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
    runs = runs.iloc[run_order(runs, _shown(runs))]
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
    looks, failed = _choose_looks(runs, frames), (runs["state"] == State.FAILED).tolist()
    for one, panel in zip(axes, panels, strict=True):
        _draw_panel(one, panel, frames, looks.of_run, failed)
    _explain(figure, list(axes), looks, _notes(frames, looks, failed))
    return figure


def save_figure(figure: Figure, target: Path) -> None:
    """Writes a figure in the format of the file's suffix.

    Raises:
        GptOptError: If it cannot be written there.
    """
    try:
        figure.savefig(target)
    except (OSError, ValueError) as error:
        raise GptOptError(f"the figure cannot be saved there, give another -o FILE.png: {error}") from error
