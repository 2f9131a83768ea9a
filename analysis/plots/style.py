"""What all figures share: the palette, the labels of metrics, what is left out, and how figures are saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis.answers.metric import metric_columns
from gpt_opt.errors import GptOptError, counted
from gpt_opt.records.metrics import is_percent, metric_info, metric_label

Color = tuple[float, float, float, float]
Style = Literal["-", "--", "-.", ":", ""]

COLORS = colormaps["viridis"]
"""Its lightness grows from end to end: the order of colours survives in grey and for those who see few of them."""

PALEST = 0.88
"""Where the colours of lines end: the palest yellow vanishes on white."""

STYLES: tuple[Style, ...] = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X<>hd"
"""What tells lines apart where colours do not: in print, and for those who see few of them."""

LABEL_LIMIT = 40
"""Characters of a name in a legend."""

TICK_LIMIT = 24
"""Characters of a name at an axis."""

FONT = 9
"""Size of legends and notes, in points."""

FAILED: dict[str, Any] = {
    "color": "black",
    "linestyle": "",
    "marker": "x",
    "markersize": 9,
    "markeredgewidth": 2,
    "zorder": 3,
}
"""The mark of a run that failed, or diverged."""


class NothingToPlot(GptOptError):
    """There is nothing that could be drawn."""


@dataclass(frozen=True)
class Look:
    """How the lines of a run are drawn; pale ones are not meant to be told apart."""

    color: Color
    style: Style = "-"
    marker: str = "o"
    pale: bool = False


def palette(count: int) -> list[Look]:
    """Returns `count` looks, dark to light."""
    colors = [COLORS(position) for position in np.linspace(0.0, PALEST, count)]
    return [
        Look(color, STYLES[index % len(STYLES)], MARKERS[index % len(MARKERS)]) for index, color in enumerate(colors)
    ]


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches, whose parts make room for each other."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def panel_grid(
    count: int, columns: int, size: tuple[float, float], beside: tuple[float, float], same_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """Returns a figure of panels, row by row.

    Args:
        count: Of panels.
        columns: Panels beside each other.
        size: Width and height of a panel, in inches.
        beside: Width and height of what is beside the panels, in inches.
        same_x: Whether they share the horizontal axis; if not, the vertical one.
    """
    lines = -(-count // columns)
    figure = new_figure(size[0] * columns + beside[0], size[1] * lines + beside[1])
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=same_x, sharey=not same_x).ravel())
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def plain_axes(axes: Axes) -> None:
    """Gives axes a faint grid and no frame."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def metric_title(metric: str) -> str:
    """Returns what a metric is called, with its unit: `eval KL (nats)`."""
    info = metric_info(metric)
    return f"{metric_label(metric)} ({info.unit})" if info is not None and info.unit else metric_label(metric)


def percents(axis: Axis, metric: str) -> None:
    """Shows fractions as percents where tables do so too."""
    if is_percent(metric):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}%"))


def present(frame: pd.DataFrame) -> str:
    """Returns which metrics some rows have, as a part of a sentence."""
    known = [name for name in metric_columns(frame) if frame[name].notna().any()]
    return f"there is {', '.join(known)}" if known else "no metric has a value yet; gptopt status shows the states"


def names_legend(figure: Figure, names: Iterable[tuple[str, Look]]) -> None:
    """Explains looks to the right of the panels."""
    handles = [
        Line2D([], [], color=look.color, linestyle=look.style, marker=look.marker, linewidth=2, label=name)
        for name, look in names
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=FONT, frameon=False, handlelength=3)


def notes_legend(figure: Figure, notes: Sequence[Line2D]) -> None:
    """Says below the panels what else is to know, signs first, in as many columns as the figure is wide."""
    if notes:
        notes = sorted(notes, key=lambda note: note.get_linestyle() == "None" and note.get_marker() == "None")
        widest = max(len(str(note.get_label())) for note in notes) + 6
        columns = max(1, min(len(notes), int(figure.get_figwidth() * 14 / widest)))
        figure.legend(handles=list(notes), loc="outside lower center", ncols=columns, fontsize=FONT, frameon=False)


def text_note(label: str) -> Line2D:
    """Returns a note without a sign."""
    return Line2D([], [], linestyle="", label=label)


def failed_note(number: int, what: str = "failed") -> Line2D:
    """Returns the note that explains the cross."""
    return Line2D([], [], **FAILED, label=f"{what} ({counted(number, 'run')})")


def save_figure(figure: Figure, target: Path) -> None:
    """Writes a figure in the format of the file's suffix.

    Raises:
        GptOptError: If it cannot be written there.
    """
    try:
        figure.savefig(target)
    except (OSError, ValueError) as error:
        raise GptOptError(f"the figure cannot be saved there, give another -o FILE.png: {error}") from error
