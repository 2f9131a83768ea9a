"""From `optimizer.optimizer_params` to an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gpt_opt.errors import ConfigError, Problem
from gpt_opt.training.instantiate import call_target, require_kind
from gpt_opt.training.optimizers.cautious import decay_cautiously
from gpt_opt.training.optimizers.roles import NamedParameter, named_parameters
from gpt_opt.training.optimizers.routing import groups_by

_KEY = "optimizer.optimizer_params"
_NOT_ARGUMENTS = frozenset({"name", "lr_schedule", "warm_up_fraction", "decay_fraction", "cautious_weight_decay"})


def build_optimizer(
    params: Mapping[str, Any], model: nn.Module, parameters: list[NamedParameter] | None = None
) -> Optimizer:
    """Builds the optimizer that `_target_` names, over all trainable parameters of a model.

    A target whose first argument is called `named_parameters` gets a list of `NamedParameter` and makes groups of its
    own. Any other, such as the classes of torch.optim, gets the parameters themselves in one group, or in several where
    their learning rates or decays differ.

    Args:
        params: `optimizer.optimizer_params` as plain containers; keys of the schedule are left out.
        model: The policy.
        parameters: Its trainable parameters, where they have learning rates of their own; None is all at one rate.

    Raises:
        ConfigError: If the optimizer refuses its settings, or is not over each trainable parameter once.
    """
    arguments = {key: value for key, value in params.items() if key not in _NOT_ARGUMENTS}
    factory = call_target({**arguments, "_partial_": True})
    trained = named_parameters(model) if parameters is None else parameters
    try:
        made = factory(trained if _takes_names(factory.func) else _plain(trained, params))
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ConfigError([Problem(_KEY, f"{params['_target_']} refuses these settings: {error}")]) from error
    optimizer: Optimizer = require_kind(_KEY, params, made, Optimizer)
    _require_each_once(optimizer, trained, params["_target_"])
    if params.get("cautious_weight_decay"):
        decay_cautiously(optimizer)
    return optimizer


def _plain(trained: list[NamedParameter], params: Mapping[str, Any]) -> list[Any]:
    """Returns parameters for a class like those of torch.optim."""
    if all(item.lr_multiplier == 1 and item.decays for item in trained):
        return [item.parameter for item in trained]
    return groups_by(trained, params["lr"], params.get("weight_decay"))


def _takes_names(target: Any) -> bool:
    try:
        return next(iter(inspect.signature(target).parameters), None) == "named_parameters"
    except (TypeError, ValueError):  # a callable without a signature
        return False


def _require_each_once(optimizer: Optimizer, trained: list[NamedParameter], target: str) -> None:
    """Checks the groups; torch refuses a parameter that is in two of them."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left_out = [item.name for item in trained if id(item.parameter) not in held]
    if left_out or len(held) != len(trained):
        wrong = f"leaves out {', '.join(left_out[:5])}" if left_out else "has others beside them"
        problem = f"{target} must be over every trainable parameter, but {wrong}"
        raise ConfigError([Problem(_KEY, problem, "give each a group; freeze what is not to be trained")])
