"""What is remembered of one config is what would be found for another."""

from __future__ import annotations

import itertools
import json
from typing import Any

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.remember import Remembered
from gpt_opt.config.schema import register
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.compose.composer import Composed
from gpt_opt.plan.validate import PointChecker
from gpt_opt.records.run_id import TRAINING
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import ROOT


def test_checks_and_ids_with_a_memo_are_those_without() -> None:
    axes = [
        ["loss=dpo", "loss=sft", "loss=kto"],
        ["model.archive=embedded", "model.archive=null", "model.archive=/no/such"],
        ["training.training_params.max_length=64", "training.training_params.max_length=10000"],
        ["training.training_params.mixed_precision=no", "model.policy_dtype=float16"],
        ["optimizer.optimizer_params.lr=-1", "optimizer=rmsprop"],
        ["lora=none", "lora=lora"],
        ["seed=1", "paths.output_dir=/proc/none"],
    ]
    register()
    register_resolvers()
    checker, different = PointChecker(own_app(ROOT / "hydra_conf")), set()
    beta = ("loss.beta=0.1",)
    points = [(*point, *(() if "loss=sft" in point else beta)) for point in itertools.product(*axes)]
    for point in checker.compose_many(points):
        assert isinstance(point, Composed)
        found = constraint_problems(point.config, checker.memo)
        assert found == constraint_problems(point.config), point.overrides
        whole = json.dumps(TRAINING.part(point.config), sort_keys=True, separators=(",", ":"))
        assert TRAINING.json(point.config, checker.memo) == TRAINING.json(point.config) == whole
        different.add(tuple(found))
    assert len(different) > 10


def test_only_a_change_of_what_was_read_asks_again() -> None:
    memo, asked = Remembered(), []

    def total(config: Any) -> Any:
        asked.append(1)
        return [config["a"]["x"], config.get("b") if config["a"]["x"] else None]

    one, none = {"x": 1}, {"x": 0}
    for a, b, times in [(one, 1, 1), (one, 1, 1), (none, 1, 2), (none, 2, 2), (one, 2, 3), ({"x": 1}, 1, 4)]:
        for other in (None, [], 3):  # is not read
            assert memo.of(total, {"a": a, "b": b, "other": other}) == [a["x"], b if a["x"] else None]
        assert len(asked) == times


def test_values_that_are_equal_and_yet_differ_are_told_apart() -> None:
    memo = Remembered()
    for value in (1, 1.0, True, "1", "True", 0, -0.0, 0.0, None, "None"):
        assert repr(memo.of(_read, {"a": value})) == repr(value)
        assert memo(repr, value) == repr(value)
        assert memo.each(_shown, {"a": value}) == [f"a {value!r}"]
        assert memo.of(_read_absent, {"a": value}) is None
    for config in ({"a": 1}, {"a": 1, "b": 1}):
        assert memo.of(list, config) == list(config)


def _shown(key: str, value: Any) -> str:
    return f"{key} {value!r}"


def _read(config: Any) -> Any:
    return config["a"]


def _read_absent(config: Any) -> Any:
    return config.get("b")
