"""What runs need, in the terms of sbatch, and which runs can share what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpt_opt.records.sweep_dir import SweepRun
from gpt_opt.sweep.model import SITE_FIELDS, Resources

MOST_SLOTS = 8
"""Slots of an allocation where the user does not say how many."""


def slurm_slots(runs: int) -> int:
    """Returns how many of `runs` runs go at a time on a cluster: all, at most `MOST_SLOTS`."""
    return max(1, min(runs, MOST_SLOTS))


def by_shape(runs: Iterable[SweepRun]) -> dict[int, list[SweepRun]]:
    """Returns runs by the shape of what they need, in the order of the shapes."""
    found: dict[int, list[SweepRun]] = {}
    for run in sorted(runs, key=lambda run: run.shape):
        found.setdefault(run.shape, []).append(run)
    return found


def groups(indices: Sequence[int], together: int) -> list[tuple[int, ...]]:
    """Splits run indices into the groups that share a slot."""
    return [tuple(indices[start : start + together]) for start in range(0, len(indices), together)]


def site_options(resources: Resources) -> dict[str, Any]:
    """Returns the options of sbatch that do not depend on how runs are spread, without the user's own lines."""
    values = {"time": resources.time_min, **{name: getattr(resources, name) for name in SITE_FIELDS}}
    return {name: value for name, value in values.items() if value is not None}


def mem_mb(resources: Resources) -> int | None:
    """Returns the memory of one run in MiB, as Slurm counts."""
    return None if resources.mem_gb is None else max(1, round(resources.mem_gb * 1024))
