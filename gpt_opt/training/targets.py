"""Objects that a config names by their `_target_`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from gpt_opt.errors import ConfigError, Problem


def call_target(node: Mapping[str, Any]) -> Any:
    """Calls the `_target_` of a node with the node's other keys, as plain containers.

    Raises:
        Exception: What the target raised: it says more than Hydra's words around it, and its traceback ends in the
            user's code.
    """
    try:
        return instantiate(dict(node), _convert_="all")
    except InstantiationException as error:
        raise error.__cause__ or error from None


def build_target(key: str, node: Mapping[str, Any], kind: type) -> Any:
    """Calls a target as `call_target` does, and checks what it gives.

    Args:
        key: Where the node stands in the config, for the error.
        node: The node.
        kind: What it must give.

    Raises:
        ConfigError: If it gives something else.
    """
    made = call_target(node)
    require_kind(key, node, made, kind)
    return made


def require_kind(key: str, node: Mapping[str, Any], made: Any, kind: type) -> None:
    """Checks what a target gave.

    Raises:
        ConfigError: If it is no `kind`.
    """
    if not isinstance(made, kind):
        problem = f"must give a {kind.__name__}, but {node['_target_']} gives a {type(made).__name__}"
        raise ConfigError([Problem(f"{key}._target_", problem, f"see {kind.__module__}.{kind.__name__}")])
