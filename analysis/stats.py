"""Statistics of small samples: intervals, tests of all pairs, seeds that are needed. Numbers in, numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Coverage of intervals."""

ALPHA = 0.04
"""A difference is called real where its corrected p is at most this. A paired t-test errs exactly so often: at
0.05 it would not stay below 5% where values are only about normal."""

POWER = 0.8
"""Probability with which `seeds_needed` asks that a difference be found."""

ROUNDING = 1e-12
"""A spread below this part of the values is rounding: they are equal."""


def mean_interval(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns mean and Student's t-interval of samples along the last axis; NaN bounds of fewer than two values.

    Args:
        values: Of shape (..., n), independent and about normally distributed.
    """
    count = values.shape[-1]
    if count == 0:
        nothing = np.full(values.shape[:-1], math.nan)
        return nothing, nothing, nothing
    mean = values.mean(axis=-1)
    if count == 1:
        return mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan)
    half = special.stdtrit(count - 1, (1 + LEVEL) / 2) * values.std(axis=-1, ddof=1) / math.sqrt(count)
    return mean, mean - half, mean + half


_ROUNDS = 200
"""Rounds in which `adjusted_means` converges, but for designs that hang together by a thread."""


def adjusted_means(samples: Floats) -> Floats:
    """Returns the mean that each sample would have with a value for every block: effects of samples and blocks add up.

    Where all have all blocks, or too few are shared to tell the two effects apart, it is the mean of what there is.

    Args:
        samples: Of shape (samples, blocks), NaN where a sample has no value for a block; each has one at least.
    """
    known = ~np.isnan(samples)
    means = np.asarray(np.nanmean(samples, axis=1), dtype=np.float64)
    reached = np.arange(len(samples)) == 0
    while not reached.all() and (more := known[:, known[reached].any(axis=0)].any(axis=1)).sum() > reached.sum():
        reached = more
    if known.all() or not reached.all():
        return means
    effects = means
    for _ in range(_ROUNDS):
        blocks = np.nanmean(samples - effects[:, None], axis=0)
        effects = np.nanmean(samples - blocks, axis=1)
    return np.asarray(effects + blocks.mean(), dtype=np.float64)


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
    differences within blocks; any other Welch's t-test, with the degrees of freedom of the smaller sample: Welch's own
    estimate of them errs too often where the sizes differ. Whichever sample one picks by looking, its comparisons with
    all others are among these: of normally distributed values, the probability of calling any two equal means
    different at a corrected p of up to `ALPHA` is at most `ALPHA`, whatever the sizes and variances. Where values do
    not vary over blocks, chance cannot be estimated, and p is 1.

    Args:
        samples: Of shape (..., samples, blocks), NaN where a sample has no value for a block, in the same places all
            along the leading axes. Blocks are seeds.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure"; Mickey and Brown 1966, "Bounds on the
    distribution functions of the Behrens-Fisher statistic".
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
        p = 2 * special.stdtr(freedom, -np.abs(difference) / error)
    constant = error <= ROUNDING * size
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
    freedom = np.minimum(count[..., first], count[..., second]) - 1
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
    enough = abs(difference) >= _found_from(alpha) * deviation
    return int(enough.argmax()) + 2 if difference and enough.any() else None


@lru_cache(maxsize=16)
def _found_from(alpha: float) -> Floats:
    """Returns for 2, 3, ... seeds the difference, in standard deviations, that is found with probability `POWER`."""
    counts = np.arange(2, MOST_SEEDS + 1)
    reach = special.stdtrit(counts - 1, 1 - alpha / 2) + special.stdtrit(counts - 1, POWER)
    return np.asarray(reach / np.sqrt(counts), dtype=np.float64)
