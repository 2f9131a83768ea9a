"""What a plan will cost, judged by finished runs of the same shape; unknown where there are none."""

from __future__ import annotations

import heapq
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.summary import read_summary
from gpt_opt.sweep.model import Resources

NOT_SHAPE = frozenset({"max_steps", "num_epochs", "n_examples", "warmup_steps", "max_grad_norm", "save_total_limit"})
"""Keys of training_params that do not change how long a step takes."""


def shape(config: Mapping[str, Any]) -> str:
    """Returns what decides how long a step of a run takes: model, data, loss, optimizer, batches, adapters, own parts.

    Seeds, strengths, rates, schedules and the number of steps are left out.
    """
    params = config["training"]["training_params"]
    kept = (
        config["model"],
        config["data"],
        config["loss"].get("name"),
        config["optimizer"]["optimizer_params"].get("name"),
        {key: value for key, value in params.items() if key not in NOT_SHAPE},
        config["lora"],
        [config.get(key) for key in ("collator", "aligner", "callbacks")],
    )
    return json.dumps(kept, sort_keys=True, default=str)


@dataclass(frozen=True)
class Price:
    """What the runs that remain will cost.

    Attributes:
        run_s: Expected seconds of one run, the median of those that remain; None when unknown.
        gpu_hours: Of all runs that remain, None when any is unknown.
        wall_s: Until the last one ends, on `slots` slots; None when any is unknown.
        slots: Runs at a time.
        unknown: Runs that nothing finished can speak for.
        basis: Finished runs that the estimate rests on.
    """

    run_s: float | None
    gpu_hours: float | None
    wall_s: float | None
    slots: int
    unknown: int
    basis: int


class History:
    """Seconds per step of the finished runs below some folders, by shape; each folder is read once.

    Attributes:
        on_gpu: Whether any of those runs was on a GPU.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._speeds: dict[str, list[float]] = {}
        self.on_gpu = False
        for folder in find_run_dirs(*roots):
            self._read(RunPaths(folder))

    def _read(self, paths: RunPaths) -> None:
        if not paths.summary.exists():
            return
        try:
            config, summary = read_json_object(paths.config), read_summary(paths)
            seconds = summary["time_s"] / summary["step"]
            self._speeds.setdefault(shape(config), []).append(seconds)
            self.on_gpu = self.on_gpu or summary["device"] != "cpu"
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            return  # a foreign or torn record says nothing about speed; status and analysis report it

    def step_s(self, wanted: str) -> float | None:
        """Returns the median seconds per step of a shape, or None."""
        speeds = self._speeds.get(wanted)
        return statistics.median(speeds) if speeds else None

    def basis(self, shapes: Iterable[str]) -> int:
        """Returns how many finished runs have one of the shapes."""
        return sum(len(self._speeds.get(wanted, ())) for wanted in set(shapes))


def makespan_s(times: Sequence[float], slots: int) -> float:
    """Returns when the last run ends if `slots` slots take the runs in order, each as soon as it is free."""
    free = [0.0] * max(1, slots)
    for time_s in times:
        heapq.heappush(free, heapq.heappop(free) + time_s)
    return max(free)


def price(work: Sequence[tuple[str, int | None]], history: History, resources: Resources, slots: int) -> Price:
    """Prices the runs that remain.

    Args:
        work: Shape and optimizer steps still to do of each run, in the order they will start; None steps are unknown.
        history: Finished runs.
        resources: What one run holds; no number of GPUs means one where finished runs were on a GPU, else none.
        slots: Runs at a time.
    """
    speeds = {wanted: history.step_s(wanted) for wanted, _ in work}
    times = [speed * steps for wanted, steps in work if steps is not None and (speed := speeds[wanted]) is not None]
    unknown = len(work) - len(times)
    complete = not unknown
    gpus = int(history.on_gpu) if resources.gpus_per_run is None else resources.gpus_per_run
    gpus *= resources.nodes_per_run or 1
    return Price(
        run_s=statistics.median(times) if times else None,
        gpu_hours=sum(times) * gpus / 3600 if complete else None,
        wall_s=makespan_s(times, slots) if complete else None,
        slots=slots,
        unknown=unknown,
        basis=history.basis(speeds),
    )
