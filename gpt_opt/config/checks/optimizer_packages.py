"""What must hold for the optimizers of other packages, for cautious weight decay and for an average of the weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from gpt_opt.errors import Problem

_PACKAGES = ("pytorch_optimizer", "schedulefree", "prodigyopt")
"""What the extra `optimizers` of gpt-opt installs."""

_OWN = "gpt_opt.training.optimizers.packages"
_OPTIMIZER = "optimizer.optimizer_params"
_EMA = "training.training_params.ema_decay"


def package_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that the package of an optimizer is installed; it is not imported."""
    target = config["optimizer"]["optimizer_params"]["_target_"]
    package = "pytorch_optimizer" if target.rpartition(".")[0] == _OWN else target.partition(".")[0]
    if package in _PACKAGES and find_spec(package) is None:
        name = config["optimizer"]["optimizer_params"]["name"]
        problem = f"{name} needs the package {package}: pip install 'gpt-opt[optimizers]'"
        yield Problem(f"{_OPTIMIZER}._target_", problem, f"the Python that lacks it is {sys.executable}")


def cautious_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that cautious weight decay has a decay to apply, by parameter and step."""
    params, key = config["optimizer"]["optimizer_params"], f"{_OPTIMIZER}.cautious_weight_decay"
    if not params.get("cautious_weight_decay"):
        return
    if not any(params.get(name) for name in ("weight_decay", "adamw_wd", "adamw_weight_decay")):
        yield Problem(
            key, "is ignored without weight decay", f"set {_OPTIMIZER}.weight_decay above 0, or leave it false"
        )
    for name in ("weight_decouple", "decoupled_weight_decay"):
        if params.get(name) is False:
            problem = f"needs decoupled decay, but {name} is false"
            yield Problem(key, problem, f"set {_OPTIMIZER}.{name}=true")
    if config["deepspeed"]:
        problem = "must be false with deepspeed, which steps over pieces of several weights"
        yield Problem(key, problem, "set deepspeed=none; fsdp has it")


def average_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks the average of the weights: its range, and that weights are whole and have no other average."""
    decay = config["training"]["training_params"]["ema_decay"]
    if decay is None:
        return
    if not 0 < decay < 1:
        yield Problem(_EMA, f"must be above 0 and below 1, or null, but is {decay}")
    for group in ("fsdp", "deepspeed"):
        if config[group]:
            problem = f"must be null with {group}: the average is over whole weights, of which each process has a part"
            yield Problem(_EMA, problem, f"set {group}=none, or leave it null")
    if config["optimizer"]["optimizer_params"]["_target_"].startswith("schedulefree."):
        yield Problem(_EMA, "must be null with a schedule-free optimizer, which averages the weights itself")
