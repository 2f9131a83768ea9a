"""The statistics against scipy, and by simulation: coverage of intervals, false alarms, power."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from analysis.stats import ALPHA, Floats, adjusted_means, all_pairs, holm, mean_interval, seeds_needed
from analysis.variance import variance_shares

DRAWS = 2000
SWEEPS = 6000
"""Simulated sweeps: false alarms of a two-sample test are 4 in 100, give or take 0.25."""


def test_an_interval_is_scipys() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=(5, 4))
    mean, low, high = mean_interval(values)
    wanted = stats.t.interval(0.95, 3, loc=values.mean(axis=1), scale=stats.sem(values, axis=1))
    assert mean == pytest.approx(values.mean(axis=1))
    assert (low, high) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))


@pytest.mark.parametrize("values", [[], [1.5]])
def test_of_fewer_than_two_values_there_is_no_interval(values: list[float]) -> None:
    mean, low, high = mean_interval(np.array(values))
    assert math.isnan(low)
    assert math.isnan(high)
    assert math.isnan(mean) if not values else mean == 1.5


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_intervals_cover_the_mean_in_95_of_100_draws(count: int) -> None:
    _, low, high = mean_interval(np.random.default_rng(count).normal(7.0, 3.0, size=(DRAWS, count)))
    assert 0.93 <= ((low <= 7.0) & (high >= 7.0)).mean() <= 0.97


def test_tests_are_scipys() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(3, 6))
    found = all_pairs(shared)
    assert found.paired.all()
    assert list(zip(found.first, found.second, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    wanted = [stats.ttest_rel(shared[i], shared[j]).pvalue for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.p == pytest.approx(wanted)
    apart = np.full((2, 9), math.nan)
    apart[0, :5], apart[1, 5:] = rng.normal(size=5), rng.normal(1, 5, size=4)
    found = all_pairs(apart)
    assert not found.paired.any()
    assert found.p == pytest.approx(_independent(apart[0, :5], apart[1, 5:]))


def _independent(first: Floats, second: Floats) -> float:
    """Returns p of scipy's statistic of Welch, with the degrees of freedom of the smaller sample."""
    statistic = stats.ttest_ind(first, second, equal_var=False).statistic
    return float(2 * stats.t.sf(abs(statistic), min(len(first), len(second)) - 1))


def test_adjusted_means() -> None:
    rng = np.random.default_rng(13)
    samples = rng.normal(size=(4, 1)) + 3 * rng.normal(size=(1, 5))  # no noise: effects add up
    whole = samples.mean(axis=1)
    assert adjusted_means(samples) == pytest.approx(whole)
    some = np.where(rng.random((4, 5)) < 0.4, math.nan, samples)
    some[:, 0], some[0, :] = samples[:, 0], samples[0, :]
    assert np.isnan(some).sum() >= 3
    assert adjusted_means(some) == pytest.approx(whole)
    apart = np.array([[1.0, 2.0, math.nan], [math.nan, math.nan, 5.0]])
    assert adjusted_means(apart).tolist() == [1.5, 5.0]


def test_few_shared_blocks_are_not_worth_pairing() -> None:
    samples = np.random.default_rng(3).normal(size=(2, 10))
    samples[0, 6:], samples[1, :4] = math.nan, math.nan  # two of six are shared
    found = all_pairs(samples)
    assert not found.paired[0]
    assert found.count[0] == 6
    assert found.p[0] == pytest.approx(_independent(samples[0, :6], samples[1, 4:]))
    samples[1, 3] = 0.5  # three of six
    assert all_pairs(samples).paired[0]


def test_what_cannot_be_tested() -> None:
    one_value = all_pairs(np.array([[1.0, math.nan], [2.0, 3.0]]))
    assert math.isnan(one_value.p[0])
    same_difference = all_pairs(np.array([[0.25, 0.5, 0.75], [0.125, 0.375, 0.625]]))
    assert same_difference.constant[0]
    assert same_difference.p[0] == 1.0
    rounding = all_pairs(np.array([[0.1, 0.2, 0.3], [0.1 + 0.3, 0.2 + 0.3, 0.3 + 0.3]]))
    assert rounding.constant[0]


def test_holm() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.02, math.nan, 0.5])).tolist() == pytest.approx([0.04, math.nan, 0.5], nan_ok=True)
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def _of_the_best(samples: Floats, p: Floats) -> Floats:
    """Returns p of the pairs that the best sample is in, 1 of the others."""
    found = all_pairs(samples)
    best = np.nanmean(samples, axis=-1).argmax(axis=-1)[:, None]
    return np.where((found.first == best) | (found.second == best), p, 1.0)


def _false_alarms(samples: Floats) -> float:
    """Returns how often the best of equal samples is called distinguishable from any other."""
    p = all_pairs(samples).corrected
    return float((_of_the_best(samples, p) <= ALPHA).any(axis=-1).mean())


@pytest.mark.parametrize(("settings", "seeds"), product([2, 3, 6], [2, 3, 5, 10]))
def test_equal_settings_are_called_different_in_fewer_than_5_of_100_sweeps(settings: int, seeds: int) -> None:
    rng = np.random.default_rng([settings, seeds])
    noise = rng.normal(size=(SWEEPS, settings, seeds))
    assert _false_alarms(noise + 3 * rng.normal(size=(SWEEPS, 1, seeds))) < 0.05, "seeds matter as well"
    assert _false_alarms(noise * np.geomspace(0.2, 3, settings)[:, None]) < 0.05, "settings of unequal noise"
    assert _false_alarms(np.round(100 + 2 * noise) / 200) < 0.05, "an accuracy of few examples"
    assert _false_alarms(np.exp(noise / 2)) < 0.05, "skewed"
    apart = np.full((SWEEPS, settings, settings * seeds), math.nan)
    for index in range(settings):
        apart[:, index, index * seeds : (index + 1) * seeds] = noise[:, index]
    assert _false_alarms(apart) < 0.05, "seeds of their own"


@pytest.mark.parametrize(
    ("sizes", "deviations"),
    [
        ([2, 8], [1, 1]),
        ([2, 8], [4, 1]),
        ([2, 5], [3, 1]),
        ([2, 5], [1, 3]),
        ([2, 2, 2, 8], [3, 1, 1, 1]),
        ([2, 2, 2, 2, 2, 10], [1] * 6),
    ],
)
def test_equal_settings_of_unequal_sizes_are_called_different_as_seldom(
    sizes: list[int], deviations: list[int]
) -> None:
    rng = np.random.default_rng([*sizes, *deviations])
    samples = np.full((SWEEPS, len(sizes), sum(sizes)), math.nan)
    for index, (size, deviation) in enumerate(zip(sizes, deviations, strict=True)):
        start = sum(sizes[:index])
        samples[:, index, start : start + size] = rng.normal(0, deviation, size=(SWEEPS, size))
    assert (all_pairs(samples).corrected <= ALPHA).any(axis=-1).mean() < 0.05


def test_choosing_the_best_by_looking_would_raise_false_alarms_without_the_correction() -> None:
    samples = np.random.default_rng(5).normal(size=(DRAWS, 6, 5))
    assert (_of_the_best(samples, all_pairs(samples).p) <= 0.05).any(axis=-1).mean() > 0.15


@pytest.mark.parametrize(("settings", "seeds", "difference"), [(2, 3, 8), (3, 3, 20), (3, 5, 5), (6, 10, 3)])
def test_a_big_difference_is_found(settings: int, seeds: int, difference: float) -> None:
    rng = np.random.default_rng(6)
    samples = rng.normal(size=(DRAWS, settings, seeds)) + 5 * rng.normal(size=(DRAWS, 1, seeds))
    samples[:, 0] += difference
    found = all_pairs(samples)
    assert (found.corrected[:, found.first == 0] <= ALPHA).all(axis=-1).mean() > 0.8


def test_the_seeds_that_are_asked_for_suffice() -> None:
    needed = seeds_needed(1.0, 1.0, 0.05)
    assert needed is not None
    assert 8 <= needed <= 12  # as tables of power say: 10
    rng = np.random.default_rng(7)
    found = all_pairs(np.stack([rng.normal(1.0, 1.0, size=(DRAWS, needed)), np.zeros((DRAWS, needed))], axis=1))
    assert 0.75 < (found.p[:, 0] <= 0.05).mean() < 0.9
    assert seeds_needed(1e-6, 1.0, 0.05) is None
    assert seeds_needed(0.0, 1.0, 0.05) is None


def _balanced(rng: np.random.Generator) -> tuple[list[float], dict[str, list[object]]]:
    grid = list(product([0.1, 0.3, 1.0], ["adamw", "muon"], [0, 1]))
    values = [2 * lr + (0.5 if name == "muon" else 0) + float(rng.normal(0, 0.05)) for lr, name, _ in grid]
    lr, name, seed = (list(column) for column in zip(*grid, strict=True))
    return values, {"lr": lr, "name": name, "seed": seed}


def test_shares_of_a_balanced_design_are_sums_of_squares_between_means() -> None:
    values, factors = _balanced(np.random.default_rng(8))
    found = variance_shares(values, factors)
    assert found is not None
    y = np.array(values)
    for name, levels in factors.items():
        groups = [y[[level == one for level in levels]] for one in dict.fromkeys(levels)]
        between = sum(len(group) * (group.mean() - y.mean()) ** 2 for group in groups)
        assert found.of_factor[name] == pytest.approx(between / ((y - y.mean()) ** 2).sum())
    assert sum(found.of_factor.values()) + found.left == pytest.approx(1)
    assert found.overlap == 0
    assert found.p["lr"] < 0.001 < 0.05 < found.p["seed"]


def test_the_test_of_one_factor_is_scipys() -> None:
    groups = np.random.default_rng(9).normal(size=(3, 4)) + np.array([[0], [0], [1.5]])
    found = variance_shares(groups.ravel().tolist(), {"lr": [level for level in "abc" for _ in range(4)]})
    assert found is not None
    assert found.p["lr"] == pytest.approx(stats.f_oneway(*groups).pvalue)


def test_shares_of_factors_that_vary_together_are_not_given_to_one() -> None:
    rng = np.random.default_rng(10)
    a = [0, 0, 0, 0, 1, 1, 1, 1]
    b = [0, 0, 0, 1, 1, 1, 1, 0]
    values = [3.0 * x + float(rng.normal(0, 0.01)) for x in a]
    found = variance_shares(values, {"a": a, "b": b})
    assert found is not None
    assert found.of_factor["b"] < 0.01
    assert found.of_factor["a"] == pytest.approx(0.75, abs=0.01)
    assert found.overlap == pytest.approx(0.25, abs=0.01)
    same = variance_shares(values, {"a": a, "twin": a})
    assert same is not None
    assert same.of_factor == pytest.approx({"a": 0, "twin": 0})
    assert same.overlap > 0.99


def test_shares_never_sum_to_more_than_all() -> None:
    rng = np.random.default_rng(11)
    for _ in range(50):
        factors = {name: rng.integers(0, 3, 9).tolist() for name in "abc"}
        found = variance_shares(rng.normal(size=9).tolist(), factors)
        assert found is not None
        assert sum(found.of_factor.values()) + found.overlap + found.left == pytest.approx(1)
        assert min(found.of_factor.values()) >= 0


def test_a_random_search_is_fitted_by_curves() -> None:
    rng = np.random.default_rng(12)
    lr, dropout = 10 ** rng.uniform(-5, -1, 60), rng.uniform(0, 0.5, 60)
    values = (np.log10(lr) + 3) ** 2 + rng.normal(0, 0.1, 60)
    found = variance_shares(values.tolist(), {"lr": lr.tolist(), "dropout": dropout.tolist()})
    assert found is not None
    assert found.of_factor["lr"] > 0.9
    assert found.of_factor["dropout"] < 0.02
    assert found.freedom == 55


@pytest.mark.parametrize("values", [[1.0, 2.0], [], [3.0, 3.0, 3.0, 3.0]])
def test_of_nothing_that_varies_there_are_no_shares(values: list[float]) -> None:
    assert variance_shares(values, {"lr": list(range(len(values)))}) is None
