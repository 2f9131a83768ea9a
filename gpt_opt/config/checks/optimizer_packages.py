"""What must hold for the optimizers of other packages, for cautious weight decay and for an average of the weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from gpt_opt.errors import Problem

_PACKAGES = ("pytorch_optimizer", "schedulefree", "prodigyopt", "opt_einsum")
"""What the extra `optimizers` of gpt-opt installs."""

_OWN: Mapping[str, tuple[str, ...]] = {
    "gpt_opt.training.optimizers.packages.normuon": ("pytorch_optimizer",),
    "gpt_opt.training.optimizers.packages.adamuon": ("pytorch_optimizer",),
    # Without opt_einsum torch multiplies from left to right: 118 GB for the table of GPT-2's tokens.
    "gpt_opt.training.optimizers.packages.kron": ("pytorch_optimizer", "opt_einsum"),
}
"""Packages of what is named by a function of ours."""
_OPTIMIZER = "optimizer.optimizer_params"
_EMA = "training.training_params.ema_decay"


def package_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that the packages of an optimizer are installed; none is imported."""
    params = config["optimizer"]["optimizer_params"]
    needed = _OWN.get(params["_target_"], (params["_target_"].partition(".")[0],))
    if missing := [package for package in needed if package in _PACKAGES and find_spec(package) is None]:
        problem = f"{params['name']} needs the package {' and '.join(missing)}: pip install 'gpt-opt[optimizers]'"
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
