"""Steps and seconds until a run reaches a target value of the metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.sensitivity.budget import Asked
from analysis.sensitivity.compare import Curve, mean

DIGITS = 3
"""Significant digits of a target that the user did not give."""


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


def default_target(curves: Sequence[Curve], asked: Asked) -> float:
    """Returns what half of the optimizers end at or beyond: the median of the best means, rounded to the worse side."""
    values = sorted((mean(curve.best.values) for curve in curves if curve.best.values), key=asked.key)
    value = values[(len(values) - 1) // 2] if values else math.nan
    if not value or math.isnan(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    units = value / unit
    return float(f"{(math.floor(units) if asked.greater else math.ceil(units)) * unit:.{DIGITS}g}")


def _steps_to(target: float, rows: pd.DataFrame, asked: Asked) -> float:
    """Returns the step at which a curve reaches the target, on the line between two evaluations."""
    known = rows[rows[asked.metric].notna()]
    steps, values = known["step"].tolist(), [asked.key(value) for value in known[asked.metric]]
    goal = asked.key(target)
    for index, (step, value) in enumerate(zip(steps, values, strict=True)):
        if value <= goal:
            if index == 0 or not math.isfinite(values[index - 1]):
                return float(step)
            fraction = (values[index - 1] - goal) / (values[index - 1] - value)
            return float(steps[index - 1] + fraction * (step - steps[index - 1]))
    return math.nan


def reach(target: float, rows: pd.DataFrame, tokens: int, steps: int, asked: Asked) -> Reach:
    """Returns how long a run took to a target.

    Args:
        target: Value of the metric.
        rows: The rows of the run of what `load_metrics` returned.
        tokens: Training tokens of the whole run.
        steps: Its optimizer steps.
        asked: What is compared.
    """
    at = _steps_to(target, rows, asked) if asked.metric in rows.columns else math.nan
    speeds = rows["tokens_per_second"].dropna() if "tokens_per_second" in rows.columns else pd.Series(dtype="float64")
    if speeds.empty or not (speeds > 0).all() or not steps:
        return Reach(at, math.nan)
    return Reach(at, at * tokens / steps * float((1 / speeds).mean()))
