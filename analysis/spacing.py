"""Whether config values were chosen by their ratios, so that an axis of them is logarithmic."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

WIDE = 10.0
"""Ratio of two values from which they are compared by their ratio."""


def log_spaced(values: Iterable[float]) -> bool:
    """Returns whether values were chosen by their ratios: their logarithms are spread more evenly than they are.

    `[0.05, 0.1, 0.3]`, `[16, 32, 64]` and log-uniform draws are, `[1, 2, 3]` and uniform draws are not. Two values are
    where they differ by an order of magnitude.
    """
    known = sorted({float(value) for value in values})
    if len(known) < 2 or known[0] <= 0:
        return False
    if len(known) == 2:
        return known[1] / known[0] >= WIDE
    return _unevenness(np.log(known)) < _unevenness(np.array(known)) - 1e-6


def _unevenness(ordered: np.ndarray) -> float:
    """Returns how far the fractions of an ascending range lie from equal steps, at most."""
    fractions = (ordered - ordered[0]) / (ordered[-1] - ordered[0])
    return float(np.abs(fractions - np.linspace(0, 1, len(ordered))).max())
