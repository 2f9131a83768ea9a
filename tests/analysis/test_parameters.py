"""What varies between runs, what it is called, in which order runs stand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import load_runs
from analysis.parameters import (
    find_column,
    format_value,
    run_labels,
    run_order,
    short_names,
    shortened,
    varying_parameters,
    with_absent_values,
)
from gpt_opt.errors import GptOptError
from gpt_opt.records.run_dir import RunPaths

MakeRun = Callable[..., RunPaths]


def test_only_what_varies_and_can_matter(make_run: MakeRun, outputs: Path) -> None:
    make_run({"loss.beta": 0.1, "seed": 0, "paths.output_dir": "a", "logging.logging_params.log_level": "info"})
    make_run({"loss.beta": 0.3, "seed": 1, "paths.output_dir": "b", "exp_name": "again"})
    assert varying_parameters(load_runs(outputs)) == ["loss.beta", "seed"]


def test_a_value_and_no_value_differ(make_run: MakeRun, outputs: Path) -> None:
    make_run()
    make_run({"data.dataset.max_samples": 100})
    assert varying_parameters(load_runs(outputs)) == ["data.dataset.max_samples"]


def test_keys_that_follow_from_the_name_of_their_group_are_left_out(make_run: MakeRun, outputs: Path) -> None:
    rmsprop = {"optimizer.optimizer_params.name": "rmsprop", "optimizer.optimizer_params.alpha": 0.99}
    make_run()
    make_run({**rmsprop, "optimizer.optimizer_params.lr": 1e-4})
    assert varying_parameters(load_runs(outputs)) == ["optimizer.optimizer_params.name"]
    make_run({**rmsprop, "optimizer.optimizer_params.lr": 1e-3})
    prefix = "optimizer.optimizer_params"
    assert varying_parameters(load_runs(outputs)) == [f"{prefix}.name", f"{prefix}.lr"]


def test_of_keys_that_only_some_runs_have_the_first_stands_for_all(make_run: MakeRun, outputs: Path) -> None:
    make_run()
    make_run({"lora": {"r": 8, "alpha": 16}})
    assert varying_parameters(load_runs(outputs)) == ["lora.r"]
    make_run({"lora": {"r": 8, "alpha": 32}})
    assert varying_parameters(load_runs(outputs)) == ["lora.r", "lora.alpha"]


def test_a_run_without_a_config_does_not_make_everything_vary(make_run: MakeRun, outputs: Path) -> None:
    for beta in (0.1, 0.3):
        make_run({"loss.beta": beta, "loss.train_on_inputs": False})
    make_run().config.unlink()
    runs = load_runs(outputs)
    assert varying_parameters(runs) == varying_parameters(with_absent_values(runs)) == ["loss.beta"]


def test_a_column_is_found_by_its_key_the_end_of_it_and_the_name_that_tables_show(
    make_run: MakeRun, outputs: Path
) -> None:
    for name in ("adamw", "lion"):
        make_run({"optimizer.optimizer_params.name": name})
    runs, key = load_runs(outputs), "optimizer.optimizer_params.name"
    assert {find_column(runs, name) for name in (key, "optimizer_params.name", "optimizer")} == {key}
    with pytest.raises(GptOptError, match="the runs have no optimize; what varies"):
        find_column(runs, "optimize")


def test_short_names_are_unambiguous() -> None:
    columns = ["loss.beta", "a.params.lr", "b.params.lr", "b.other.lr", "optimizer.optimizer_params.name", "x.state"]
    assert short_names(columns, reserved=["state"]) == {
        "loss.beta": "beta",
        "a.params.lr": "a.params.lr",
        "b.params.lr": "b.params.lr",
        "b.other.lr": "other.lr",
        "optimizer.optimizer_params.name": "optimizer",
        "x.state": "x.state",
    }


def test_a_short_name_never_equals_the_key_of_another_column() -> None:
    assert short_names(["seed", "data.seed"]) == {"seed": "seed", "data.seed": "data.seed"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        (3.0, "3"),
        (0.123456789, "0.123456789"),
        (True, "true"),
        (16, "16"),
        ("adamw", "adamw"),
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "inf"),
    ],
)
def test_values_read_as_they_are_typed(value: object, text: str) -> None:
    assert format_value(value) == text
    assert format_value(pd.Series([value]).iloc[0]) == text


def test_runs_stand_by_number_then_text_then_nothing() -> None:
    runs = pd.DataFrame({"a.x": ["auto", 16, None, 2, "all"], "a.y": [1, 1, 1, 1, 1]})
    assert [runs["a.x"][row] for row in run_order(runs, ["a.y", "a.x"])] == [2, 16, "all", "auto", None]


def test_labels_name_what_varies(make_run: MakeRun, outputs: Path) -> None:
    make_run({"loss.beta": 0.05, "seed": 1})
    assert run_labels(load_runs(outputs)) == ["beta=0.05"]
    make_run({"loss.beta": 0.3, "seed": 2})
    assert run_labels(load_runs(outputs)) == ["beta=0.05, seed=1", "beta=0.3, seed=2"]


def test_a_run_without_parameters_is_called_by_its_directory(make_run: MakeRun, outputs: Path) -> None:
    make_run().config.unlink()
    assert run_labels(load_runs(outputs)) == ["run-000000000000"]


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        (["/data/of/the/project/a/x.jsonl", "/data/of/the/project/b/x.jsonl"], 12, ["…a/x.jsonl", "…b/x.jsonl"]),
        (["adamw-with-a-long-name", "sgd"], 10, ["ada…g-name", "sgd"]),
    ],
)
def test_what_differs_is_kept(values: list[str], limit: int, expected: list[str]) -> None:
    found = shortened(values, limit)
    assert [found[value] for value in values] == expected


def test_different_values_stay_different_and_short() -> None:
    draw = random.Random(0)
    for _ in range(300):
        values = ["".join(draw.choices("ab/", k=draw.randrange(40))) for _ in range(draw.randrange(1, 30))]
        limit = draw.randrange(8, 30)
        found = shortened(values, limit)
        assert len(set(found.values())) == len(set(values))
        assert max(map(len, found.values())) <= limit
