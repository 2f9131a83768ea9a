"""Generators and distributions: exact values, and draws that never change."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_opt.sweep.distributions import DISTRIBUTIONS, GENERATORS, MAX_VALUES, BadValues, draw_number


def draws(name: str, arguments: Any, size: int, key: str = "lr", seed: int = 0) -> list[Any]:
    draw = DISTRIBUTIONS[name].make(arguments)
    return [draw(draw_number(seed, key, i)) for i in range(size)]


@pytest.mark.parametrize(
    ("name", "arguments", "values"),
    [
        ("range", [0, 3], (0, 1, 2)),
        ("range", [3, 0, -1], (3, 2, 1)),
        ("range", [0, 5, 2], (0, 2, 4)),
        ("range", [0, 0.4, 0.1], (0.0, 0.1, 0.2, 0.3)),
        ("range", [1.0, 3], (1.0, 2.0)),
        ("range", [10**20, 10**20 + 2], (10**20, 10**20 + 1)),
        ("linspace", [0, 1, 11], (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("linspace", [1, -1, 3], (1.0, 0.0, -1.0)),
        ("logspace", [1e-5, 0.1, 5], (1e-05, 0.0001, 0.001, 0.01, 0.1)),
        ("logspace", [8, 1, 4], (8.0, 4.0, 2.0, 1.0)),
    ],
)
def test_generated_values(name: str, arguments: Any, values: tuple[Any, ...]) -> None:
    made = GENERATORS[name].make(arguments)
    assert made == values
    assert [type(v) for v in made] == [type(v) for v in values]


@pytest.mark.parametrize(
    ("table", "name", "arguments", "message"),
    [
        (GENERATORS, "range", [0], "all numbers"),
        (GENERATORS, "range", 3, "all numbers"),
        (GENERATORS, "range", [0, True], "all numbers"),
        (GENERATORS, "range", [0, 1, 0], "step must not be 0"),
        (GENERATORS, "range", [1, 1], "gives none"),
        (GENERATORS, "range", [0, 3, -1], "gives none"),
        (GENERATORS, "range", [0, MAX_VALUES + 1], f"at most {MAX_VALUES}"),
        (GENERATORS, "range", [0, 10**301], "below 1e300"),
        (GENERATORS, "linspace", [0, 1], "all numbers"),
        (GENERATORS, "linspace", [0, 1, 1], "count must be an integer from 2"),
        (GENERATORS, "linspace", [0, 1, 2.0], "count must be an integer"),
        (GENERATORS, "linspace", [1, 1.0, 3], "must differ"),
        (GENERATORS, "logspace", [0, 1, 3], "above 0"),
        (GENERATORS, "logspace", [1, -1, 3], "above 0"),
        (DISTRIBUTIONS, "uniform", [1, 0], "low must be below high"),
        (DISTRIBUTIONS, "uniform", [1, 1], "low must be below high"),
        (DISTRIBUTIONS, "uniform", ["0", 1], "all numbers"),
        (DISTRIBUTIONS, "log_uniform", [0, 1], "low must be above 0"),
        (DISTRIBUTIONS, "log_uniform", [-1, 1], "low must be above 0"),
        (DISTRIBUTIONS, "int", [0, 1.5], "integers"),
        (DISTRIBUTIONS, "int", [3, 2], "low must be below high"),
        (DISTRIBUTIONS, "choice", [], "at least one value"),
        (DISTRIBUTIONS, "choice", "abc", "at least one value"),
    ],
)
def test_bad_arguments(table: dict[str, Any], name: str, arguments: Any, message: str) -> None:
    with pytest.raises(BadValues, match=message):
        table[name].make(arguments)


def test_draws_are_pinned() -> None:
    assert draw_number(0, "lr", 0) == PINNED["number"]
    assert draws("uniform", [-1, 2], 3) == PINNED["uniform"]
    assert draws("log_uniform", [1e-5, 0.1], 3) == PINNED["log_uniform"]
    assert draws("int", [0, 9999], 3) == PINNED["int"]
    assert draws("choice", ["a", None, [1]], 6) == PINNED["choice"]
    assert draws("uniform", [0, 1], 2, key="é", seed=7) == PINNED["other key and seed"]


def test_distributions_have_their_shape() -> None:
    size = 4000
    assert statistics.fmean(draws("uniform", [0, 10], size)) == pytest.approx(5, abs=0.2)
    logs = [math.log10(v) for v in draws("log_uniform", [1e-4, 1.0], size)]
    assert statistics.fmean(logs) == pytest.approx(-2, abs=0.1)
    assert statistics.quantiles(logs, n=4) == pytest.approx([-3, -2, -1], abs=0.1)
    dice = draws("int", [1, 6], size)
    assert set(dice) == {1, 2, 3, 4, 5, 6}
    assert min(dice.count(face) for face in range(1, 7)) > size / 6 * 0.85
    assert len(set(draws("int", [0, 10**40], size))) == size


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), st.integers(0, 2**256 - 1))
def test_draws_stay_within_the_bounds(a: float, b: float, number: int) -> None:
    if a == b:
        return
    low, high = sorted([a, b])
    for name in ("uniform", "log_uniform"):
        for n in (number, 0, 2**256 - 1):
            value = DISTRIBUTIONS[name].make([low, high])(n)
            assert isinstance(value, float)
            assert low <= value <= high


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), st.integers(2, 9))
def test_logspace_keeps_its_ends_and_its_order(a: float, b: float, size: int) -> None:
    if math.isclose(a, b):
        return
    values: Any = GENERATORS["logspace"].make([a, b, size])
    assert len(values) == size
    assert (values[0], values[-1]) == (a, b)
    assert list(values) == sorted(values, reverse=a > b)
    ratios = [math.log(y) - math.log(x) for x, y in itertools.pairwise(values)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-6, abs=1e-9)


PINNED: dict[str, Any] = {
    "number": 80007408931523823261169814179081993677313395571655613456424416513977204296579,
    "uniform": [1.072872407567025, -0.28837625775067455, -0.4352853760400113],
    "log_uniform": [0.005805369631512833, 8.888565075180474e-05, 5.66177794002559e-05],
    "int": [6909, 2372, 1882],
    "choice": [[1], "a", "a", None, "a", None],
    "other key and seed": [0.11735803929697552, 0.18719109299091763],
}
