"""How each line of a figure looks, and what explains it: names in a legend, or a colour bar."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from analysis.parameters import hashable, run_labels, short_names, short_values, shortened, shown_parameters
from analysis.plots.style import COLORS, LABEL_LIMIT, Look, names_legend, palette
from analysis.spacing import log_spaced

FEW = 12
"""Lines with a name of their own, at most; of more these are the best, the worst and some between."""

BEST, WORST = 6, 3
"""How many of them are the best and the worst."""

MOST_IN_NAME = 3
"""Values in a name, unless it takes more to tell lines apart."""

BAR_TICKS = 6
"""Labelled values of a logarithmic colour bar."""

UNKNOWN = Look((0.6, 0.6, 0.6, 1.0), marker="")
"""Grey, for a line without a value on the colour bar."""

OTHERS = Look((0.8, 0.8, 0.8, 1.0), marker="", pale=True)
"""Pale grey, for lines without a name."""


@dataclass(frozen=True)
class Looks:
    """The look of every line, and what explains it.

    Attributes:
        of_line: One a line.
        names: Text and look of each legend entry.
        bar: Scale of the colour bar, or None when the legend explains.
        bar_label: What the bar shows.
    """

    of_line: list[Look]
    names: list[tuple[str, Look]]
    bar: ScalarMappable | None = None
    bar_label: str = ""

    def explain(self, figure: Figure, panels: Sequence[Axes]) -> None:
        """Adds the legend or the colour bar."""
        if self.bar is None:
            names_legend(figure, self.names)
        else:
            bar = figure.colorbar(self.bar, ax=list(panels), fraction=0.04, pad=0.02, format="%.2g")
            bar.set_label(self.bar_label)
            if isinstance(self.bar.norm, LogNorm):  # its own ticks, powers of ten, may be a single one
                bar.set_ticks(np.geomspace(*self.bar.get_clim(), BAR_TICKS).tolist())
                bar.minorticks_off()


def bar_looks(values: Sequence[float], label: str) -> Looks:
    """Returns looks by number, with a colour bar."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    norm = LogNorm(low, high) if log_spaced(known) else Normalize(low, high)
    of_line = [Look(COLORS(float(norm(value))), marker="") if math.isfinite(value) else UNKNOWN for value in values]
    return Looks(of_line, [], ScalarMappable(norm, COLORS), label)


def group_looks(groups: Sequence[str | None]) -> Looks:
    """Gives each distinct text of `groups` a look, in order of first appearance; None is one of the others."""
    names = list(dict.fromkeys(group for group in groups if group is not None))
    looks = dict(zip(names, palette(len(names)), strict=True))
    texts = shortened(names, LABEL_LIMIT)
    return Looks(
        [OTHERS if group is None else looks[group] for group in groups],
        [(texts[name], look) for name, look in looks.items()],
    )


def _telling(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Returns the columns of a name: all of a few; of many those without which runs would have one name."""
    kept, values = list(columns), runs[list(columns)].apply(hashable).astype("str")
    count = len(values.drop_duplicates())
    for column in reversed(columns):
        rest = [name for name in kept if name != column]
        if len(kept) > MOST_IN_NAME and len(values[rest].drop_duplicates()) == count:
            kept = rest
    return kept


def _labels(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Returns a name of each run, of the values of some columns, shortened to what tells them apart.

    Where that is still too long the names of the columns are shortened too: the values are what differs.
    """
    names = short_names(_telling(runs, columns))
    if not names:
        return run_labels(runs)
    whole, share = [LABEL_LIMIT] * len(names), LABEL_LIMIT // len(names)
    parts_of = [max(10, share - len(name) - 3) for name in names.values()]
    for width, limits in ((LABEL_LIMIT, whole), (LABEL_LIMIT, parts_of), (8, parts_of), (4, parts_of)):
        keys = shortened(names.values(), width)
        parts = [
            [f"{keys[name]}={value}" for value in short_values(runs[column], limit)]
            for (column, name), limit in zip(names.items(), limits, strict=True)
        ]
        labels = [", ".join(row) for row in zip(*parts, strict=True)]
        if max(map(len, labels), default=0) <= LABEL_LIMIT:
            break
    return labels


def _named(ranks: Sequence[float | None]) -> set[int]:
    """Returns the indices of the lines that get a name: the best, the worst and some between, where there is data."""
    order = sorted(
        (index for index, rank in enumerate(ranks) if rank is not None), key=lambda index: ranks[index] or 0.0
    )
    if len(order) <= FEW:
        return set(order)
    between = order[BEST:-WORST]
    spread = np.linspace(0, len(between) - 1, FEW - BEST - WORST + 2)[1:-1]
    return {*order[:BEST], *order[-WORST:], *(between[round(index)] for index in spread)}


def choose_looks(runs: pd.DataFrame, ranks: Sequence[float | None], sizes: Sequence[int]) -> Looks:
    """Chooses looks of lines.

    Args:
        runs: A row a line, in the order of what varies.
        ranks: A number that is smaller for better lines; None for one that has nothing to draw.
        sizes: Runs that each line stands for.
    """
    drawn = [index for index, rank in enumerate(ranks) if rank is not None]
    columns = shown_parameters(runs.iloc[drawn])  # what a run without a curve alone has tells no lines apart
    if len(runs) > FEW and columns:
        first = runs[columns[0]]
        name = short_names(columns)[columns[0]]
        if first.nunique() <= FEW:
            values = short_values(first, LABEL_LIMIT - len(f"{name}= ({sum(sizes)} runs)"))
            counts: Counter[str] = Counter()
            for value, size in zip(values, sizes, strict=True):
                counts[value] += size
            looks = group_looks([f"{name}={v}" + (f" ({counts[v]} runs)" if counts[v] > 1 else "") for v in values])
            return replace(looks, of_line=[replace(look, marker="") for look in looks.of_line])
        if pd.api.types.is_numeric_dtype(first) and not pd.api.types.is_bool_dtype(first):
            return bar_looks(first.to_numpy(dtype="float64", na_value=math.nan).tolist(), name)
    named = _named(ranks)
    return group_looks([label if index in named else None for index, label in enumerate(_labels(runs, columns))])
