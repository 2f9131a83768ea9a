"""Statistics of small samples: intervals, all-pairs tests, shares of variance. Numbers in, numbers out; no frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Coverage of intervals."""

ALPHA = 0.04
"""A difference is called real where its corrected p is at most this. A t-test of two samples errs exactly so often: at
0.05 it would not stay below 5% where values are only about normal."""

POWER = 0.8
"""Probability with which `seeds_needed` asks that a difference be found."""

_ROUNDING = 1e-12
"""A spread below this part of the values is rounding: they are equal."""


def mean_interval(values: Floats, level: float = LEVEL) -> tuple[Floats, Floats, Floats]:
    """Returns mean and Student's t-interval of samples along the last axis; NaN bounds of fewer than two values.

    Args:
        values: Of shape (..., n), independent and about normally distributed.
        level: Probability with which the interval holds the true mean.
    """
    count = values.shape[-1]
    if count == 0:
        nothing = np.full(values.shape[:-1], math.nan)
        return nothing, nothing, nothing
    mean = values.mean(axis=-1)
    if count == 1:
        return mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan)
    half = special.stdtrit(count - 1, (1 + level) / 2) * values.std(axis=-1, ddof=1) / math.sqrt(count)
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class AllPairs:
    """Every pair of samples compared; arrays of shape (..., pairs) or (pairs,).

    Attributes:
        first: Index of the first sample of each pair.
        second: Index of the second; always the larger one.
        paired: Whether values of one block were subtracted; else the samples are taken as independent.
        count: Blocks that both have, or values of the smaller sample where they are independent.
        difference: Mean of the first minus mean of the second.
        error: Standard error of the difference.
        constant: Whether it is nought but for rounding: values do not vary over blocks, so chance cannot be estimated.
        p: Two-sided p of each test alone; NaN where a sample has fewer than two values.
        corrected: p after Holm's correction for all pairs.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    paired: NDArray[np.bool_]
    count: NDArray[np.intp]
    difference: Floats
    error: Floats
    constant: NDArray[np.bool_]
    p: Floats
    corrected: Floats


def all_pairs(samples: Floats) -> AllPairs:
    """Tests each pair of samples for equal means, and corrects for the number of all pairs.

    A pair that shares at least two blocks, and at least half of those that its smaller sample has, gets a t-test on the
    differences within blocks; any other Welch's t-test. Whichever sample one picks by looking, its comparisons with
    all others are among these: the probability of calling any two equal means different is at most `ALPHA`. Where
    values do not vary over blocks, chance cannot be estimated, and p is 1.

    Args:
        samples: Of shape (..., samples, blocks), NaN where a sample has no value for a block, in the same places all
            along the leading axes. Blocks are seeds.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    first, second = np.triu_indices(samples.shape[-2], 1)
    a, b = samples[..., first, :], samples[..., second, :]
    both = ~np.isnan(a - b)
    shared = both.reshape(-1, *both.shape[-2:])[0].sum(axis=-1) if both.size else np.zeros(len(first), dtype=np.intp)
    sizes = (~np.isnan(samples)).reshape(-1, *samples.shape[-2:])[0].sum(axis=-1)
    smaller = np.minimum(sizes[first], sizes[second])
    paired = (shared >= 2) & (2 * shared >= smaller)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_pairs, of_samples = _paired(a, b), _welch(samples, first, second)
    difference, error, freedom, size = (np.where(paired, x, y) for x, y in zip(of_pairs, of_samples, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * special.stdtr(freedom, -np.abs(difference) / error)
    constant = error <= _ROUNDING * size
    p = np.where(constant, 1.0, p)
    p = np.where(smaller >= 2, p, math.nan)
    count = np.where(paired, shared, smaller)
    return AllPairs(first, second, paired, count, difference, error, constant, p, holm(p))


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns count, mean and variance (n - 1) along the last axis, NaN values left out."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1).astype(np.float64)
    mean = np.where(known, values, 0).sum(axis=-1) / count
    squares = np.where(known, (values - mean[..., None]) ** 2, 0).sum(axis=-1)
    return count, mean, squares / (count - 1)


def _paired(a: Floats, b: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Returns difference, its standard error, degrees of freedom, and the size of the values."""
    count, mean, variance = _moments(a - b)
    return mean, np.sqrt(variance / count), count - 1, np.nanmax(np.abs(np.concatenate([a, b], axis=-1)), axis=-1)


def _welch(samples: Floats, first: NDArray[np.intp], second: NDArray[np.intp]) -> tuple[Floats, Floats, Floats, Floats]:
    """Returns the same as `_paired` for independent samples of unequal variances."""
    count, mean, variance = _moments(samples)
    of_mean = variance / count
    a, b = of_mean[..., first], of_mean[..., second]
    freedom = (a + b) ** 2 / (a**2 / (count[..., first] - 1) + b**2 / (count[..., second] - 1))
    size = np.maximum(np.abs(mean[..., first]), np.abs(mean[..., second]))
    return mean[..., first] - mean[..., second], np.sqrt(a + b), freedom, size


def holm(p: Floats) -> Floats:
    """Returns p values corrected by Holm's method for all along the last axis; NaN are no tests and stay NaN."""
    order = np.argsort(p, axis=-1)  # NaN come last
    tests = (~np.isnan(p)).sum(axis=-1, keepdims=True)
    factors = np.maximum(tests - np.arange(p.shape[-1]), 1)
    ascending = np.maximum.accumulate(np.take_along_axis(p, order, axis=-1) * factors, axis=-1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(ascending, 1.0), axis=-1)
    return corrected


MOST_SEEDS = 1000
"""`seeds_needed` gives up beyond."""


def seeds_needed(difference: float, deviation: float, alpha: float) -> int | None:
    """Returns how many seeds find a difference with probability `POWER`, were it and the deviation as they seem.

    Args:
        difference: Between two means.
        deviation: Standard deviation of the differences within a seed.
        alpha: Two-sided level of the test.

    Returns:
        At least 2; None where it would take more than `MOST_SEEDS`.
    """
    counts = np.arange(2, MOST_SEEDS + 1)
    reach = special.stdtrit(counts - 1, 1 - alpha / 2) + special.stdtrit(counts - 1, POWER)
    enough = abs(difference) * np.sqrt(counts) >= reach * deviation
    return int(counts[enough][0]) if difference and enough.any() else None


SMOOTH_FROM = 6
"""Distinct numbers from which a factor may be a curve, where there are too few runs for a mean of each value."""


@dataclass(frozen=True)
class Shares:
    """How the variance of a metric divides among what was varied.

    Attributes:
        of_factor: Share that each factor explains beyond all others by itself, 0 to 1.
        p: F-test of each share against what is left unexplained; NaN where nothing is left to test against.
        overlap: Share that factors explain together and that cannot be given to one, because they vary together.
        left: Share that no factor explains by itself: interactions, and chance that no factor stands for.
        count: Values.
    """

    of_factor: Mapping[str, float]
    p: Mapping[str, float]
    overlap: float
    left: float
    count: int


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
    if not total > (_ROUNDING * np.abs(y).max()) ** 2 * len(y):
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
    shares = {name: loss / total for name, loss in losses.items()}
    left = residual / total
    overlap = 1 - left - sum(shares.values())
    return Shares(shares, p, overlap if abs(overlap) > 1e-9 else 0.0, left, len(y))


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
    fit, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return float(((y - design @ fit) ** 2).sum()), len(y) - int(rank)
