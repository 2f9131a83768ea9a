"""Sweep files of what to run next: values beyond the edges at which optima lie, further seeds at the best points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.answers.edges import further_values
from analysis.next_sweeps import other_values, sweep_file, with_seeds
from analysis.sensitivity.budget import Asked
from analysis.sensitivity.compare import Curve


def extension(
    curves: Iterable[Curve], asked: Asked, name: str, resources: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the sweep file that tries further values where an optimum lies at an edge; None where none does.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    members = []
    for curve in curves:
        if values := further_values([point.axis for point in curve.profile], curve.optimum):
            seeds = sorted(curve.seeds - {None}) or sorted(curve.best.seeds - {None})
            members.append(other_values(curve.best.finals[0].path, asked.axis, values, seeds))
    return sweep_file(name, members, asked.metric, asked.greater, resources)


def more_seeds(
    curves: Iterable[Curve], asked: Asked, name: str, count: int, resources: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the sweep file that runs each best point with `count` seeds; None where all have them.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    members = []
    for curve in curves:
        seeds = curve.best.seeds - {None}
        if curve.best.values and len(seeds) < count:
            members.append(with_seeds(curve.best.finals[0].path, seeds, count))
    return sweep_file(name, members, asked.metric, asked.greater, resources)
