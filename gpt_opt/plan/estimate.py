"""What a plan will cost, estimated from finished runs of the same workload; unknown where there are none."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gpt_opt.app.app import App
from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.summary import read_summary
from gpt_opt.sweep.model import Resources


class Work(NamedTuple):
    """What remains of one run.

    Attributes:
        workload: See `App.workload`.
        steps: Optimizer steps still to do; None where they are not known.
        resources: What the run needs.
    """

    workload: str
    steps: int | None
    resources: Resources


@dataclass(frozen=True)
class CostEstimate:
    """What the runs that remain will cost.

    Attributes:
        run_s: Expected seconds of one run, the median of those that remain; None when unknown.
        gpu_hours: Of all runs that remain, None when any is unknown.
        wall_s: Until the last one ends, on `slots` slots for each shape; None when any is unknown.
        slots: Runs of one shape at a time.
        unknown: Runs for which there is no sample.
        samples: Finished runs that the estimate rests on.
    """

    run_s: float | None
    gpu_hours: float | None
    wall_s: float | None
    slots: int
    unknown: int
    samples: int


class Samples:
    """Seconds per step of the finished runs below some folders, by workload; each folder is read once.

    Args:
        app: What the runs are of.
        roots: The folders.

    Attributes:
        on_gpu: Whether any of those runs was on a GPU.
    """

    def __init__(self, app: App, roots: Iterable[Path]) -> None:
        self._app = app
        self._speeds: dict[str, list[float]] = {}
        self.on_gpu = False
        for folder in find_run_dirs(*roots):
            self._read(RunPaths(folder))

    def _read(self, paths: RunPaths) -> None:
        if not paths.summary.exists():
            return
        try:
            config, summary = read_json_object(paths.config), read_summary(paths)
            self._speeds.setdefault(self._app.workload(config), []).append(self._app.step_s(summary))
            self.on_gpu = self.on_gpu or summary["device"] != "cpu"
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            return  # a foreign or torn record says nothing about speed; status and analysis report it

    def known(self, names: Iterable[str]) -> dict[str, float]:
        """Returns the median seconds per step of those of some workloads that have finished runs."""
        return {name: statistics.median(speeds) for name in set(names) if (speeds := self._speeds.get(name))}

    def count(self, names: Iterable[str]) -> int:
        """Returns how many finished runs have one of the workloads."""
        return sum(len(self._speeds.get(name, ())) for name in set(names))


def makespan_s(times: Sequence[float], slots: int) -> float:
    """Returns when the last run ends if `slots` slots take the runs in order, each as soon as it is free."""
    free = [0.0] * max(1, slots)
    for time_s in times:
        heapq.heappush(free, heapq.heappop(free) + time_s)
    return max(free)


def estimate(work: Sequence[Work], samples: Samples, slots: int) -> CostEstimate:
    """Estimates the cost of the runs that remain.

    Each shape has an allocation of its own, so that the last of them to end decides when all is done.

    Args:
        work: What remains of each run, in the order they will start.
        samples: Finished runs.
        slots: Runs of one shape at a time.
    """
    speeds = samples.known(item.workload for item in work)
    times: dict[Resources, list[float]] = {}
    for item in work:
        if item.steps is not None and item.workload in speeds:
            times.setdefault(item.resources, []).append(speeds[item.workload] * item.steps)
    known = [time_s for group in times.values() for time_s in group]
    complete = len(known) == len(work)
    gpu_s = sum(sum(group) * _gpus(resources, samples.on_gpu) for resources, group in times.items())
    return CostEstimate(
        run_s=statistics.median(known) if known else None,
        gpu_hours=gpu_s / 3600 if complete else None,
        wall_s=max((makespan_s(group, slots) for group in times.values()), default=0.0) if complete else None,
        slots=slots,
        unknown=len(work) - len(known),
        samples=samples.count(speeds),
    )


def _gpus(resources: Resources, on_gpu: bool) -> int:
    """Returns the GPUs that a run holds: where it does not say, one if finished runs were on a GPU."""
    gpus = int(on_gpu) if resources.gpus_per_run is None else resources.gpus_per_run
    return gpus * (resources.nodes_per_run or 1)
