"""What quality costs: the settings that no other one beats in both, and how long runs take to a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answers.settings import Setting
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import read_run

TIME = "time_s"


def pareto(settings: Sequence[Setting], greater: bool, cost: str = TIME) -> list[Setting]:
    """Returns the settings that no other one beats in mean metric and mean cost at once, the cheapest first.

    Args:
        settings: What `settings` returned; those without a mean or a cost, and those of which a run diverged, are not
            looked at.
        greater: Whether greater values of the metric are better.
        cost: One of `analysis.answers.settings.COSTS`.
    """
    known = [item for item in settings if item.n and cost in item.costs and not item.diverged]
    front: list[Setting] = []
    for item in sorted(known, key=lambda item: (item.costs[cost], -item.mean if greater else item.mean)):
        if not front or (item.mean > front[-1].mean if greater else item.mean < front[-1].mean):
            front.append(item)
    return front


def with_gpu_seconds(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns runs with a column `gpu_s`: seconds times GPUs of the last attempt; NaN of a run without a GPU."""
    gpus = [len(read_run(RunPaths(Path(path))).file.gpus or ()) for path in runs["path"]]
    return runs.assign(gpu_s=runs["time_s"] * pd.Series(gpus, index=runs.index).where(lambda count: count > 0))


@dataclass(frozen=True)
class Reach:
    """How long one run took to the target.

    Attributes:
        steps: Optimizer steps; NaN where it was not reached.
        seconds: Training time, evaluations left out; NaN where it was not reached, or no speed was logged.
    """

    steps: float
    seconds: float

    @property
    def reached(self) -> bool:
        """Whether the run reached the target."""
        return not math.isnan(self.steps)


def _steps_to(target: float, rows: pd.DataFrame, metric: str, greater: bool) -> float:
    """Returns the step at which a curve reaches the target, on the line between two evaluations."""
    sign = -1 if greater else 1
    known = rows[rows[metric].notna()]
    steps, values = known["step"].tolist(), [sign * value for value in known[metric]]
    goal = sign * target
    for index, (step, value) in enumerate(zip(steps, values, strict=True)):
        if value <= goal:
            if index == 0 or not math.isfinite(values[index - 1]):
                return float(step)
            fraction = (values[index - 1] - goal) / (values[index - 1] - value)
            return float(steps[index - 1] + fraction * (step - steps[index - 1]))
    return math.nan


def reach(target: float, rows: pd.DataFrame, tokens: int, steps: int, metric: str, greater: bool) -> Reach:
    """Returns how long a run took to a target.

    Args:
        target: Value of the metric.
        rows: The rows of the run of what `load_metrics` returned.
        tokens: Training tokens of the whole run.
        steps: Its optimizer steps.
        metric: The metric.
        greater: Whether greater values of it are better.
    """
    at = _steps_to(target, rows, metric, greater) if metric in rows.columns else math.nan
    speeds = rows["tokens_per_second"].dropna() if "tokens_per_second" in rows.columns else pd.Series(dtype="float64")
    if speeds.empty or not (speeds > 0).all() or not steps:
        return Reach(at, math.nan)
    return Reach(at, at * tokens / steps * float((1 / speeds).mean()))


@dataclass(frozen=True)
class ToTarget:
    """How long the runs of a setting took to a target.

    Attributes:
        setting: The setting.
        reaches: Of each run of it that reached the target.
    """

    setting: Setting
    reaches: tuple[Reach, ...]

    @property
    def reached(self) -> int:
        """Runs that reached the target, of `setting.n`."""
        return len(self.reaches)

    @property
    def steps(self) -> float:
        """Mean of their optimizer steps until then; NaN where none reached it."""
        return float(np.mean([item.steps for item in self.reaches])) if self.reaches else math.nan

    @property
    def seconds(self) -> float:
        """Mean of their training time until then; NaN where that is not known."""
        return float(np.mean([item.seconds for item in self.reaches])) if self.reaches else math.nan


def time_to_target(
    settings: Sequence[Setting], runs: pd.DataFrame, metrics: pd.DataFrame, target: float, metric: str, greater: bool
) -> list[ToTarget]:
    """Returns how long the runs of each setting took until the metric was as good as a target.

    Args:
        settings: What `settings` returned.
        runs: The runs of them, by `load_runs`.
        metrics: What `load_metrics` returned of the same runs.
        target: Value of the metric.
        metric: The metric.
        greater: Whether greater values of it are better.
    """
    curves = dict(tuple(metrics.groupby("path")))
    counts = zip(runs["tokens"].fillna(0), runs["step"].fillna(0), strict=True)
    sizes: dict[str, tuple[int, int]] = dict(zip(runs["path"], counts, strict=True))
    found = []
    for item in settings:
        logged = [(curves[path], *sizes[path]) for path in item.folders if path in curves]
        reaches = (reach(target, *run, metric, greater) for run in logged)
        found.append(ToTarget(item, tuple(one for one in reaches if one.reached)))
    return found
