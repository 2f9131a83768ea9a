"""The registry of metrics: what tables, figures, log lines, status and checks know of a name."""

from __future__ import annotations

import math

import pytest

from gpt_opt.config.checks.finetuning import DEFAULT_METRIC, is_greater_better
from gpt_opt.records.metrics import METRICS, comparable, greater_is_better, in_order, metric_label, metric_text


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("loss", "train loss"),
        ("eval/loss", "eval loss"),
        ("eval/rewards/accuracies", "eval accuracy"),
        ("rewards/accuracies", "train accuracy"),
        ("eval/kl", "eval KL"),
        ("learning_rate", "learning rate"),
        ("time_s", "seconds"),
        ("eval/mine", "eval/mine"),
    ],
)
def test_a_label_says_which_side_it_is_of_where_both_have_it(name: str, label: str) -> None:
    assert metric_label(name) == label


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 0.69314, "0.6931"),
        ("eval/loss", 12345.678, "1.235e+04"),
        ("eval/rewards/accuracies", 0.7812, "78.1%"),
        ("learning_rate", 5e-6, "5.000e-06"),
        ("time_s", 12345.67, "12345.7"),
        ("mine", 0.123456, "0.1235"),
        ("eval/loss", math.nan, "nan"),
        ("rewards/accuracies", math.inf, "inf"),
    ],
)
def test_a_value_is_printed_in_the_format_of_its_metric(name: str, value: float, text: str) -> None:
    assert metric_text(name, value) == text


def test_directions() -> None:
    assert greater_is_better("eval/loss") is False
    assert greater_is_better("eval/rewards/margins") is True
    assert greater_is_better("eval/mine") is None
    assert DEFAULT_METRIC in comparable()
    assert all(name.startswith("eval/") and greater_is_better(name) is not None for name in comparable())
    given = {"greater_is_better": None, "metric_for_best_model": "eval/rewards/accuracies"}
    assert is_greater_better(given)
    assert not is_greater_better({**given, "greater_is_better": False})


def test_two_metrics_do_not_share_a_label() -> None:
    labels = [metric_label(side + name) for name in METRICS for side in ("", "eval/")]
    both = [name for name, info in METRICS.items() if info.in_training and info.in_evaluation]
    assert len(set(labels)) == len(METRICS) + len(both)


def test_metrics_stand_in_the_order_of_the_registry() -> None:
    names = ["own", "eval/own", "kl", "eval/rewards/accuracies", "eval/loss", "loss", "a"]
    assert in_order(names) == ["loss", "eval/loss", "eval/rewards/accuracies", "kl", "a", "own", "eval/own"]
