"""Optima at the edge of what was tried, and the values to try next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.answers.settings import Setting, value_text
from analysis.parameters import format_value, group_key, is_number, short_names

Optimum = Literal["interior", "lowest", "highest", "only", "none"]
"""Where the best value of an axis lies among those tried; `none` where every run diverged."""

FURTHER = 2
"""Values that a grid is extended by."""

SCATTERED = 6
"""Values of a parameter that no two settings share otherwise, from which their ends count as edges."""

FACTOR = 10**0.5
"""Ratio of neighbouring values where only one was tried."""


def optimum(values: Sequence[float], best: float) -> Optimum:
    """Returns where the best of some values lies.

    Args:
        values: All that were tried, ascending; those at which runs diverged too, for they bound where an optimum is.
        best: One of them.
    """
    if len(values) == 1:
        return "only"
    return "lowest" if best == values[0] else "highest" if best == values[-1] else "interior"


def further_values(values: Sequence[float], where: Optimum) -> list[float]:
    """Returns values beyond the edge at which an optimum lies, ascending, maybe none.

    They go on in the ratio of the last two, or in their distance where a value is not above 0. A grid that begins at 0
    has nothing below: a weight decay or a dropout cannot be less. Of integers they are integers, above 0 if those are.

    Args:
        values: Those that were tried, ascending.
        where: Where the best of them lies.
    """
    steps = range(1, FURTHER + 1)
    if values[0] <= 0:
        down = [values[0] - step * (values[1] - values[0]) for step in steps] if len(values) > 1 and values[0] else []
        up = [values[-1] + step * (values[-1] - values[-2]) for step in steps] if len(values) > 1 else []
    else:
        first, last = (values[1] / values[0], values[-1] / values[-2]) if len(values) > 1 else (FACTOR, FACTOR)
        down, up = [values[0] / first**step for step in steps], [values[-1] * last**step for step in steps]
    found = down[::-1] if where in ("lowest", "only", "none") else []
    found += up if where in ("highest", "only") else []
    found = [float(f"{value:.3g}") for value in found]
    if all(isinstance(value, int) for value in values):
        found = [number for number in map(round, found) if number > 0 or values[0] < 0]
    return sorted({*found} - {*values})


@dataclass(frozen=True)
class Edge:
    """A parameter whose best value is the lowest or the highest that was tried.

    Attributes:
        key: Its config key.
        best: Its value in the best setting.
        where: `lowest` or `highest`.
        further: Values to try next.
    """

    key: str
    best: float
    where: Optimum
    further: tuple[float, ...]

    def sentence(self) -> str:
        """Returns `the best beta, 0.05, is the lowest that was tried: try 0.025 and 0.0125 next`."""
        name = short_names([self.key])[self.key]
        values = " and ".join(map(format_value, self.further))
        return f"the best {name}, {value_text(self.best)}, is the {self.where} that was tried: try {values} next"


def edges(settings: Sequence[Setting], best: Setting) -> list[Edge]:
    """Returns the numeric parameters whose best value lies at the edge of what was tried beside it.

    These are the values in settings that are equal to the best one otherwise, or, where that is none, as in a random
    search, all of `SCATTERED` or more. A value counts as tried where some run of it ended, be it by divergence, or is
    still to end.
    """
    found = []
    tried = [item for item in settings if item.n or item.diverged or item.unfinished]
    for key, own in best.values.items():
        values = _tried(tried, best, key) if is_number(own) else []
        if len(values) < 2:
            continue
        where = optimum(values, own)
        if further := further_values(values, where):  # nothing may lie below, neither of a 0 nor of an integer
            found.append(Edge(key, own, where, tuple(further)))
    return found


def _tried(tried: Sequence[Setting], best: Setting, key: str) -> list[float]:
    everywhere = sorted({item.values[key] for item in tried if is_number(item.values[key])})
    others = [name for name in best.values if name != key]
    own = [group_key(best.values[name]) for name in others]
    line = [item.values[key] for item in tried if [group_key(item.values[name]) for name in others] == own]
    beside = sorted({value for value in line if is_number(value)})
    return beside if len(beside) > 1 else everywhere if len(everywhere) >= SCATTERED else []
