"""The target value of the metric that runs are timed to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.sensitivity.budget import Asked
from analysis.sensitivity.compare import Curve, mean

DIGITS = 3
"""Significant digits of a target that the user did not give."""


def default_target(curves: Sequence[Curve], asked: Asked) -> float:
    """Returns what half of the optimizers end at or beyond: the median of the best means, rounded to the worse side."""
    values = sorted((mean(curve.best.values) for curve in curves if curve.best.values), key=asked.key)
    value = values[(len(values) - 1) // 2] if values else math.nan
    if not value or math.isnan(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    units = value / unit
    return float(f"{(math.floor(units) if asked.greater else math.ceil(units)) * unit:.{DIGITS}g}")
