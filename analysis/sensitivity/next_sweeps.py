"""What to run next: values beyond the edges at which optima lie, further seeds at the best points."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.answers.edges import further_values
from analysis.next_sweeps import Member, other_values, with_seeds
from analysis.sensitivity.compare import Curve


def extension(curves: Iterable[Curve], axis: str) -> list[Member]:
    """Returns further values of the axis for each curve whose optimum lies at an edge.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    members = []
    for curve in curves:
        if values := further_values(list(curve.profile), curve.optimum):
            seeds = sorted(curve.seeds - {None}) or sorted(curve.best.seeds - {None})
            members.append(other_values(curve.best.folder, axis, values, seeds))
    return members


def more_seeds(curves: Iterable[Curve], count: int) -> list[Member]:
    """Returns `count` seeds for each best point that has fewer.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    known = [(curve.best, curve.best.seeds - {None}) for curve in curves if curve.best.n]
    return [with_seeds(best.folder, seeds, count) for best, seeds in known if len(seeds) < count]
