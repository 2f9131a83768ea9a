"""The state of an optimizer by the names of its parameters, so that it outlives another order or other groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gpt_opt.errors import ConfigError, Problem


def parameter_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Returns the names of an optimizer's parameters in the order in which `state_dict` counts them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _renamed(saved: Mapping[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    groups = [{**group, "params": [names.get(key, key) for key in group["params"]]} for group in saved["param_groups"]]
    return {"state": {names.get(key, key): value for key, value in saved["state"].items()}, "param_groups": groups}


def state_by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Returns `optimizer.state_dict()` with names where torch counts, as torch.distributed.checkpoint has it.

    Args:
        model: Not wrapped.
        optimizer: Over parameters of it.

    Returns:
        `state`: the tensors and numbers of each parameter by its name, and what an optimizer keeps under other keys.
        `param_groups`: the settings of each group, and in `params` its names.
    """
    return _renamed(optimizer.state_dict(), dict(enumerate(parameter_names(model, optimizer))))


def with_names(saved: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Returns a saved state by name; versions that counted had one group of all trainable parameters."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return _renamed(saved, dict(enumerate(names)))


def load_state_by_name(model: nn.Module, optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Gives an optimizer the state that `state_by_name` returned.

    Args:
        model: Not wrapped.
        optimizer: Over parameters of it.
        saved: The state; that of an earlier version is by number.

    Raises:
        ConfigError: If its groups have other parameters than those of the optimizer.
    """
    saved = with_names(saved, model)
    names, own = parameter_names(model, optimizer), optimizer.state_dict()
    _require_groups(_renamed(own, dict(enumerate(names)))["param_groups"], saved["param_groups"])
    numbered = _renamed(saved, {name: index for index, name in enumerate(names)})
    for group, theirs in zip(own["param_groups"], numbered["param_groups"], strict=True):
        theirs["params"] = group["params"]  # torch matches by position
    optimizer.load_state_dict(numbered)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, theirs in numbered["state"].items():
        if isinstance(index, int):
            state = optimizer.state[parameters[index]]
            state.update({key: _as_saved(state[key], value) for key, value in theirs.items()})


def _as_saved(loaded: Any, saved: Any) -> Any:
    """Returns a loaded value in its saved type: torch gives tensors that of the weights, and takes strings apart."""
    if isinstance(saved, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict):
        return {key: _as_saved(loaded[key], value) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(_as_saved(own, value) for own, value in zip(loaded, saved, strict=True))
    return saved


def _require_groups(own: list[Mapping[str, Any]], saved: list[Mapping[str, Any]]) -> None:
    mine, theirs = ([set(group["params"]) for group in groups] for groups in (own, saved))
    if mine == theirs:
        return
    other = sorted(set().union(*mine) ^ set().union(*theirs))
    wrong = f"{len(other)} are in one of them alone, {other[0]} the first" if other else "they are in other groups"
    problem = f"must go on with the parameters of the checkpoint, in the same {len(theirs)} groups, but {wrong}"
    raise ConfigError([Problem("optimizer.optimizer_params", problem, "keep the optimizer, or train anew: rerun=true")])
