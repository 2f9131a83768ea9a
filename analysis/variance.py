"""How the variance of a metric divides among what was varied. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from analysis.stats import ROUNDING, Floats

SMOOTH_FROM = 6
"""Distinct numbers from which a factor may be a curve, where there are too few runs for a mean of each value."""


@dataclass(frozen=True)
class Shares:
    """How the variance of a metric divides among what was varied.

    Attributes:
        of_factor: Share that each factor explains beyond all others by itself, 0 to 1; scaled down where these would
            sum to more than all factors explain together, as they can where a design is not balanced.
        p: F-test of each share against what is left unexplained; NaN where nothing is left to test against.
        overlap: Share that factors explain together and that cannot be given to one, because they vary together.
        left: Share that no factor explains by itself: interactions, and chance that no factor stands for.
        count: Values.
        freedom: Values beyond those that a fit of all factors takes up: with none, any shares would fit.
    """

    of_factor: Mapping[str, float]
    p: Mapping[str, float]
    overlap: float
    left: float
    count: int
    freedom: int


def variance_shares(values: Sequence[float], factors: Mapping[str, Sequence[Any]]) -> Shares | None:
    """Divides the variance of values among factors: main effects, sums of squares of type II.

    Each share is what the sum of squares of a fit of all main effects loses without the factor; so designs need not be
    balanced. In a balanced one it is the sum of squares between the means of the factor.

    Args:
        values: The finite values of a metric.
        factors: Name to a value for each of them, hashable. A number with many values is a parabola in its rank.

    Returns:
        None where there are fewer than three values, or they do not vary.

    Source: Yates 1934, "The analysis of multiple classifications with unequal numbers in the different classes".
    """
    y = np.asarray(values, dtype=np.float64)
    total = float(((y - y.mean()) ** 2).sum()) if len(y) > 2 else 0.0
    if not len(y) or not total > (ROUNDING * np.abs(y).max()) ** 2 * len(y):
        return None
    columns = {name: _columns(list(levels)) for name, levels in factors.items()}
    residual, freedom = _residual(y, list(columns.values()))
    losses, p = {}, {}
    for name in columns:
        without, more = _residual(y, [item for other, item in columns.items() if other != name])
        losses[name] = max(0.0, without - residual)
        degrees = more - freedom
        usable = freedom > 0 and degrees > 0 and residual > 0
        ratio = losses[name] / degrees / (residual / freedom) if usable else math.nan
        p[name] = float(special.fdtrc(degrees, freedom, ratio)) if usable else math.nan
    explained, alone = 1 - residual / total, sum(losses.values()) / total
    together = explained - alone
    scale = min(1.0, explained / alone) if alone > 0 else 1.0
    shares = {name: scale * loss / total for name, loss in losses.items()}
    return Shares(shares, p, together if together > ROUNDING else 0.0, residual / total, len(y), freedom)


_SINGULAR = 1e-10
"""Columns whose products differ by less than this part follow from others."""


def _columns(levels: list[Any]) -> Floats:
    """Returns the columns of a design matrix that stand for a factor."""
    distinct = list(dict.fromkeys(levels))
    numbers = all(isinstance(level, int | float) and not isinstance(level, bool) for level in distinct)
    if numbers and len(distinct) >= SMOOTH_FROM and 3 * len(distinct) > len(levels):
        rank = np.searchsorted(np.sort(np.array(distinct, dtype=np.float64)), np.array(levels, dtype=np.float64))
        position = rank / (len(distinct) - 1) - 0.5
        return np.stack([position, position**2], axis=1)
    return np.array([[level == other for other in distinct[1:]] for level in levels], dtype=np.float64)


def _residual(y: Floats, blocks: Sequence[Floats]) -> tuple[float, int]:
    """Returns the sum of squares that a least-squares fit leaves, and its degrees of freedom."""
    design = np.concatenate([np.ones((len(y), 1)), *blocks], axis=1)
    fit, _, rank, _ = np.linalg.lstsq(design.T @ design, design.T @ y, rcond=_SINGULAR)  # small, however many runs
    return float(((y - design @ fit) ** 2).sum()), len(y) - int(rank)
