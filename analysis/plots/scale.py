"""Where config values lie on an axis: numbers by size or by their logarithm, words in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from analysis.parameters import is_number, short_values, sort_key
from analysis.plots.style import TICK_LIMIT
from analysis.spacing import WIDE, log_spaced

Kind = Literal["linear", "log", "symlog", "words"]

TICKS = 8
"""Distinct numbers that are all labelled; of more, round numbers are."""

ROOM = 0.12
"""Fraction of a numeric axis between the numbers and the runs that have no number."""

NONE = "(none)"
"""The label of a missing value."""


@dataclass(frozen=True)
class Scale:
    """An axis of config values.

    Attributes:
        kind: How places become positions.
        places: One a value.
        ticks: Places with a label.
        labels: Their labels.
        least: Of `symlog`, the smallest positive value, up to which the axis is linear.
        absent: The place of a missing value among numbers; None where none is missing.
    """

    kind: Kind
    places: tuple[float, ...]
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    least: float = 1.0
    absent: float | None = None

    def apply(self, axes: Axes, which: Literal["x", "y"] = "x") -> None:
        """Prepares an axis of a panel."""
        axis: Axis = axes.xaxis if which == "x" else axes.yaxis
        set_scale = axes.set_xscale if which == "x" else axes.set_yscale
        if self.kind == "symlog":
            set_scale("symlog", linthresh=self.least, linscale=0.5)
        elif self.kind == "log":
            set_scale("log", nonpositive="mask")
        axis.set_major_locator(FixedLocator(list(self.ticks)))
        axis.set_minor_locator(NullLocator())
        axis.set_ticklabels(list(self.labels))
        if self.kind == "words":
            (axes.set_xlim if which == "x" else axes.set_ylim)(-0.5, len(self.ticks) - 0.5)

    def fractions(self, places: Sequence[float]) -> list[float]:
        """Returns positions from 0 to 1 of places, as the axis would show them; 0.5 where there is one place only."""
        moved, ends = self._moved(places), self._moved(self.places)
        low, high = min(ends), max(ends)
        return [0.5 if high == low else (value - low) / (high - low) for value in moved]

    def _moved(self, places: Sequence[float]) -> list[float]:
        if self.kind == "log":
            return [math.log(place) for place in places]
        if self.kind == "symlog":  # the linear part takes as much as a factor of e
            return [math.log(place / self.least) + 1 if place >= self.least else place / self.least for place in places]
        return list(places)


def _plain(values: Sequence[Any]) -> list[Any]:
    """Returns config values with None for what is missing."""
    return [None if not isinstance(value, list | dict) and pd.isna(value) else value for value in values]


def scale_of(values: Sequence[Any]) -> Scale:
    """Returns the axis for config values of any kind, null and mixed kinds included."""
    plain = _plain(values)
    numbers = {float(value) for value in plain if is_number(value)}
    enough = len(numbers) > 1 or None not in plain
    if (
        numbers
        and enough
        and all(map(math.isfinite, numbers))
        and all(value is None or is_number(value) for value in plain)
    ):
        return _number_scale(plain, sorted(numbers))
    return word_scale(plain)


def word_scale(values: Sequence[Any]) -> Scale:
    """Returns the axis on which each distinct value has a place of its own, in order."""
    plain = _plain(values)
    texts = [
        NONE if value is None else text for value, text in zip(plain, short_values(plain, TICK_LIMIT), strict=True)
    ]
    order = sorted(dict(zip(texts, plain, strict=True)).items(), key=lambda item: sort_key(item[1]))
    places = {text: float(place) for place, (text, _) in enumerate(order)}
    return Scale("words", tuple(places[text] for text in texts), tuple(places.values()), tuple(places))


def _number_scale(values: Sequence[Any], numbers: Sequence[float]) -> Scale:
    low, high = numbers[0], numbers[-1]
    positive = [number for number in numbers if number > 0]
    kind: Kind = "linear"
    if log_spaced(numbers):
        kind = "log"
    elif low == 0 and len(positive) > 1 and positive[-1] / positive[0] >= WIDE and log_spaced(positive):
        kind = "symlog"
    least = positive[0] if positive else 1.0
    ticks = list(numbers) if len(numbers) <= TICKS else _round_numbers(kind, low, high, least)
    labels = short_values(ticks, 10)
    if None not in values:
        return Scale(kind, tuple(map(float, values)), tuple(ticks), tuple(labels), least)
    absent = low * (low / high) ** ROOM if kind == "log" else low - ROOM * (high - low)
    if kind == "symlog":
        absent = -least
    places = tuple(absent if value is None else float(value) for value in values)
    return Scale(kind, places, (absent, *ticks), (NONE, *labels), least, absent)


def _round_numbers(kind: Kind, low: float, high: float, least: float) -> list[float]:
    """Returns a few round numbers between two values."""
    start = least if kind == "symlog" else low
    found = np.asarray(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(start, high))
    for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)) if kind != "linear" else ():
        round_ones = np.asarray(LogLocator(subs=subs, numticks=12).tick_values(start, high))
        if np.sum((round_ones >= start) & (round_ones <= high)) > 2:
            found = round_ones
            break
    kept = [float(f"{value:.10g}") for value in found if low <= value <= high]
    return [0.0, *kept] if kind == "symlog" and 0.0 not in kept else kept


def log_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Makes an axis of positive values logarithmic, with a few round numbers as labels."""
    ticks = _round_numbers("log", low, high, low)
    Scale("log", (low, high), tuple(ticks), tuple(f"{tick:g}" for tick in ticks)).apply(axes, which)
