"""Where config values lie on an axis, and when it is logarithmic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.plots.scale import NONE, scale_of
from analysis.spacing import log_spaced


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0.05, 0.1, 0.3], True),
        ([1e-4, 3e-4, 1e-3, 3e-3, 1e-2], True),
        ([16, 32, 64], True),
        ([1e-4, 1e-3], True),
        ([0.01, 0.02, 0.05, 0.1], True),
        ([1, 2, 3], False),
        ([0.1, 0.2, 0.3, 0.4], False),
        ([0.1, 0.3], False),
        ([100, 150, 200], False),
        ([0, 0.1, 0.2], False),
        ([-1, 1, 10], False),
        ([3], False),
        ([], False),
    ],
)
def test_values_chosen_by_their_ratios_go_on_a_logarithmic_axis(values: list[float], log: bool) -> None:
    assert log_spaced(values) is log


def test_random_draws_are_told_apart_by_their_distribution() -> None:
    rng = np.random.default_rng(0)
    logs = [log_spaced(10 ** rng.uniform(-5, -2, 40)) for _ in range(200)]
    plain = [log_spaced(rng.uniform(0.05, 1, 40)) for _ in range(200)]
    assert (sum(logs) >= 195, sum(plain) <= 10) == (True, True)


def test_numbers_of_a_grid_are_all_labelled() -> None:
    scale = scale_of([0.3, 0.05, 0.1, 0.05])
    assert (scale.kind, scale.places) == ("log", (0.3, 0.05, 0.1, 0.05))
    assert (scale.ticks, scale.labels) == ((0.05, 0.1, 0.3), ("0.05", "0.1", "0.3"))


def test_of_many_numbers_round_ones_are_labelled() -> None:
    for values in (np.geomspace(1.7e-5, 0.3, 30), np.geomspace(0.11, 0.9, 30), np.linspace(3, 97, 30)):
        scale = scale_of(values.tolist())
        assert 3 <= len(scale.ticks) <= 8
        assert all(values.min() <= tick <= values.max() for tick in scale.ticks)
        assert all(len(label) <= 6 for label in scale.labels)


def test_a_missing_value_has_a_place_beside_the_numbers() -> None:
    scale = scale_of([8, None, 16, 64])
    assert scale.kind == "log"
    assert scale.absent is not None
    assert 0 < scale.absent < 8
    assert scale.labels[0] == NONE
    assert scale.places == (8, scale.absent, 16, 64)
    linear = scale_of([1.0, math.nan, 2.0, 3.0])
    assert (linear.kind, linear.absent) == ("linear", pytest.approx(0.76))


def test_zero_among_ratios_has_a_linear_part() -> None:
    scale = scale_of([0, 0.01, 0.1, 1.0])
    assert (scale.kind, scale.least) == ("symlog", 0.01)
    assert scale.fractions(scale.ticks) == pytest.approx([0, 0.178, 0.589, 1], abs=1e-3)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["sgd", "adamw", "muon"], ("adamw", "muon", "sgd")),
        ([True, False, True], ("false", "true")),
        ([None, "fp16", "bf16"], ("bf16", "fp16", NONE)),
        ([None, 8], ("8", NONE)),
        (["auto", 2, 10], ("2", "10", "auto")),
        ([[0.9, 0.99], [0.8, 0.9]], ("[0.8, 0.9]", "[0.9, 0.99]")),
        ([1.0, math.inf], ("1", "inf")),
    ],
)
def test_what_is_no_number_has_places_in_order(values: list[Any], labels: tuple[str, ...]) -> None:
    scale = scale_of(values)
    assert (scale.kind, scale.labels, scale.ticks) == ("words", labels, tuple(map(float, range(len(labels)))))


def test_long_words_are_short_and_stay_different() -> None:
    paths = [f"/scratch/long/folder/of/all/preferences/version-{index:02d}/train.jsonl" for index in range(20)]
    labels = scale_of(paths).labels
    assert len(set(labels)) == 20
    assert max(map(len, labels)) <= 24
    assert "version-07" in labels[7]


def test_fractions_are_what_the_axis_shows() -> None:
    for values in ([0.05, 0.1, 0.3], [1, 2, 3], [0, 0.01, 0.1, 1.0], ["b", "a"], [8, None, 16, 64]):
        scale = scale_of(values)
        found = scale.fractions(scale.places)
        assert (min(found), max(found)) == (0, 1)
        axes = Figure().subplots()
        scale.apply(axes)
        axes.set_xlim(min(scale.places), max(scale.places))
        shown = axes.transAxes.inverted().transform(axes.transData.transform([(place, 0) for place in scale.places]))
        assert shown[:, 0] == pytest.approx(found, abs=0.09)  # matplotlib's linear part is a little wider
    assert scale_of([3.0]).fractions([3.0]) == [0.5]
