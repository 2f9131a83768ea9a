"""What an optimizer cannot do together with other keys, its own and those of other groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.config.checks.architecture import MUP
from gpt_opt.config.optimizer_traits import traits_of
from gpt_opt.errors import Problem

_OPTIMIZER = "optimizer.optimizer_params"
_TRAINING = "training.training_params"

FINEWEB = "fineweb"
"""What the names of the data sets begin with of which the default of fstar is a lower bound."""


def combination_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that other groups ask nothing that the optimizer cannot do."""
    params, training = config["optimizer"]["optimizer_params"], config["training"]["training_params"]
    traits, name = traits_of(params), params["name"]
    if traits.uses_loss and training["max_grad_norm"] > 0:
        problem = (
            f"must be 0 with optimizer {name}, but is {training['max_grad_norm']}: its model of the loss needs the "
        )
        problem += "loss and the gradient of the same function, and clipping changes the gradient alone"
        yield Problem(f"{_TRAINING}.max_grad_norm", problem, f"write {_TRAINING}.max_grad_norm=0")
    base = (config["model"].get("config") or {}).get(MUP)
    if base is not None:
        yield from rate_problems(params, base)
    for group in ("deepspeed", "fsdp"):
        if config[group] and not traits.sharded:
            problem = f"must be none with optimizer {name}, which needs whole matrices or sums over all parameters"
            yield Problem(group, problem, f"set {group}=none; gpu.use_ddp=true splits the batch instead")
    if traits.reads_inputs and training["compile"]:
        problem = f"must be false with optimizer {name}, which reads the inputs of layers by hooks on them"
        yield Problem(f"{_TRAINING}.compile", problem)
    if traits.reads_inputs and config["lora"] and config["lora"]["use_dora"]:
        problem = f"must be false with optimizer {name}: DoRA calls its layers with unit vectors beside the data"
        yield Problem("lora.use_dora", problem, "plain adapters (lora=lora) are fine")


def rate_problems(params: Mapping[str, Any], base: int) -> Iterator[Problem]:
    """Checks that an optimizer takes the learning rates of muP, with the base width `base`."""
    if not traits_of(params).group_rates:
        problem = (
            f"must be null with optimizer {params['name']}, but is {base}: muP sets a learning rate for each group "
        )
        problem += "of parameters by the rule for Adam, which this optimizer does not take"
        fix = "take adamw, adam, nadam, nadamw, rmsprop, sign-gd or a dap optimizer, or leave muP out"
        yield Problem(f"model.config.{MUP}", problem, fix)


def own_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that the keys of an optimizer do not contradict each other, nor the data."""
    params = config["optimizer"]["optimizer_params"]
    if params.get("muon_lr") is not None:
        if params["muon_lr_ratio"] is not None:
            problem = f"must be null where muon_lr_ratio is given, but they are {params['muon_lr']} and "
            yield Problem(f"{_OPTIMIZER}.muon_lr", f"{problem}{params['muon_lr_ratio']}", "set one of them to null")
        if params["lr"] == 0:
            problem = "needs lr above 0, of which it becomes a multiple; lr is 0"
            yield Problem(f"{_OPTIMIZER}.muon_lr", problem, "set lr, or muon_lr_ratio in place of muon_lr")
    if "accelerated" in params:
        value = params["accelerated"]
        if not isinstance(value, bool) and not (isinstance(value, int | float) and 0 < value < float("inf")):
            problem = f"must be true, false or a number above 0, but is {value!r}"
            yield Problem(f"{_OPTIMIZER}.accelerated", problem, "write 0.001, not 1e-3, which YAML takes for text")
    if "fstar" in params:
        yield from _fstar_problems(params, config["data"]["dataset"]["name"])


def _fstar_problems(params: Mapping[str, Any], dataset: str) -> Iterator[Problem]:
    """Checks the lower bound of the loss, and that the means of gradients and of losses are over the same steps."""
    if params["fstar"] is None and not dataset.startswith(FINEWEB):
        problem = (
            f"must be given for data {dataset}: a lower bound of its loss, nats; null is 3.2, which suits models of "
        )
        problem += f"GPT-2's size on {FINEWEB} data alone"
        yield Problem(f"{_OPTIMIZER}.fstar", problem, f"write {_OPTIMIZER}.fstar=0, or a loss that is never reached")
    if "betas" in params and params["momentum"] != params["betas"][0]:
        problem = f"must equal betas[0] with fstar, but they are {params['momentum']} and {params['betas'][0]}"
        yield Problem(f"{_OPTIMIZER}.momentum", problem)
