"""Optimizers of other packages, cautious weight decay and averages of weights: what is refused before training."""

from __future__ import annotations

import copy
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from gpt_opt.config.checks import optimizer_packages
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.schema import register
from gpt_opt.config.schema.optimizers_packages import PACKAGE_SCHEMAS
from tests.conftest import ROOT
from tests.helpers.configs import by_hydra

register()

OPTIMIZER = "optimizer.optimizer_params"
OPTIONS = sorted(name.removeprefix("optimizer/") for name in PACKAGE_SCHEMAS)


@pytest.fixture(scope="module")
def configs() -> dict[str, dict[str, Any]]:
    chosen = {name: ["loss.beta=0.1", f"optimizer={name}"] for name in ("adamw", "nadam", *OPTIONS)}
    chosen["fsdp"] = ["loss.beta=0.1", "fsdp=full_shard"]
    chosen["deepspeed"] = ["loss.beta=0.1", "deepspeed=zero1"]
    return {name: by_hydra(overrides) for name, overrides in chosen.items()}


def problems(config: dict[str, Any], values: dict[str, Any]) -> str:
    changed = copy.deepcopy(config)
    for key, value in values.items():
        *above, leaf = key.split(".")
        node = changed
        for part in above:
            node = node[part]
        assert leaf in node
        node[leaf] = value
    return "\n".join(map(str, constraint_problems(changed)))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_valid(configs: dict[str, dict[str, Any]], name: str) -> None:
    assert constraint_problems(configs[name]) == []
    assert configs[name]["optimizer"]["optimizer_params"]["name"] == name


@pytest.mark.parametrize("name", OPTIONS)
def test_a_missing_package_is_one_error_that_says_how_to_install_it(
    configs: dict[str, dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_others(package: str) -> Any:
        return None if package in optimizer_packages._PACKAGES else find_spec(package)

    monkeypatch.setattr(optimizer_packages, "find_spec", only_others)
    found = constraint_problems(configs[name])
    if name == "muon-torch":
        assert found == []
    else:
        (problem,) = found
        assert problem.where == f"{OPTIMIZER}._target_"
        assert f"{name} needs the package" in problem.message
        assert "pip install 'gpt-opt[optimizers]'" in problem.message


PLAN = """
import sys
from pathlib import Path
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.schema import register
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.planner import Planner

register()
planner = Planner(own_app(Path("hydra_conf")))
for name in ("soap", "prodigy", "schedule-free-adamw"):
    assert not constraint_problems(planner.config(["loss.beta=0.1", f"optimizer={name}"]))
loaded = {"torch", "pytorch_optimizer", "prodigyopt", "schedulefree"} & sys.modules.keys()
assert not loaded, loaded
"""


def test_the_checks_import_no_package() -> None:
    done = subprocess.run([sys.executable, "-c", PLAN], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CAUTIOUS = {f"{OPTIMIZER}.cautious_weight_decay": True}
DECAY = {f"{OPTIMIZER}.weight_decay": 0.1}
EMA = {"training.training_params.ema_decay": 0.9}


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("adamw", CAUTIOUS, "cautious_weight_decay: is ignored without weight decay"),
        ("adopt", {**CAUTIOUS, **DECAY, f"{OPTIMIZER}.weight_decouple": False}, "but weight_decouple is false"),
        ("nadam", {**CAUTIOUS, **DECAY}, "but decoupled_weight_decay is false"),
        ("deepspeed", {**CAUTIOUS, **DECAY}, "must be false with deepspeed"),
        ("adamw", {"training.training_params.ema_decay": 1.0}, "ema_decay: must be above 0 and below 1"),
        ("adamw", {"training.training_params.ema_decay": 0.0}, "ema_decay: must be above 0 and below 1"),
        ("fsdp", EMA, "ema_decay: must be null with fsdp"),
        ("deepspeed", EMA, "ema_decay: must be null with deepspeed"),
        ("schedule-free-adamw", EMA, "must be null with a schedule-free optimizer"),
        ("ademamix", {f"{OPTIMIZER}.betas": [0.9, 0.999]}, "must be three numbers"),
        ("normuon", {f"{OPTIMIZER}.adamw_betas": [0.9]}, "adamw_betas: must be two numbers"),
        ("mars", {f"{OPTIMIZER}.betas_1d": [0.9, 1.0]}, "betas_1d: must be two numbers"),
    ],
)
def test_wrong_combinations_are_refused(
    configs: dict[str, dict[str, Any]], name: str, values: dict[str, Any], says: str
) -> None:
    assert says in problems(configs[name], values)


@pytest.mark.parametrize("values", [{**CAUTIOUS, **DECAY}, EMA])
def test_right_combinations_pass(configs: dict[str, dict[str, Any]], values: dict[str, Any]) -> None:
    assert problems(configs["adamw"], values) == ""
