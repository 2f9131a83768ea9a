"""Objects that a config names by their `_target_`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hydra._internal.utils import _locate

from gpt_opt.errors import ConfigError, Problem

_RESERVED = frozenset({"_target_", "_args_", "_partial_", "_recursive_", "_convert_"})


def call_target(node: Mapping[str, Any]) -> Any:
    """Calls the `_target_` of a node with the node's other keys, as plain containers; nested targets first.

    Like `hydra.utils.instantiate` with `_convert_="all"`, which would resolve the strings of the config once more: a
    literal `${...}` in it is data.

    Raises:
        ImportError: If the target cannot be imported.
        Exception: What the target raised; its traceback ends in the user's code.
    """
    recursive = node.get("_recursive_", True)
    keys = {key: _made(value) if recursive else value for key, value in node.items() if key not in _RESERVED}
    arguments = [_made(value) if recursive else value for value in node.get("_args_", ())]
    target = _locate(node["_target_"])
    return partial(target, *arguments, **keys) if node.get("_partial_") else target(*arguments, **keys)


def _made(value: Any) -> Any:
    if isinstance(value, Mapping):
        return call_target(value) if "_target_" in value else {key: _made(item) for key, item in value.items()}
    return [_made(item) for item in value] if isinstance(value, list) else value


def build_target(key: str, node: Mapping[str, Any], kind: type) -> Any:
    """Calls a target as `call_target` does, and checks what it gives.

    Args:
        key: Where the node stands in the config, for the error.
        node: The node.
        kind: What it must give.

    Raises:
        ConfigError: If it gives something else.
    """
    return require_kind(key, node, call_target(node), kind)


def require_kind(key: str, node: Mapping[str, Any], made: Any, kind: type) -> Any:
    """Returns what a target gave, which has to be a `kind`.

    Raises:
        ConfigError: If it is no `kind`.
    """
    if not isinstance(made, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        problem = f"must give {article} {kind.__name__}, but {node['_target_']} gives a {type(made).__name__}"
        raise ConfigError([Problem(f"{key}._target_", problem, f"see {kind.__module__}.{kind.__name__}")])
    return made
