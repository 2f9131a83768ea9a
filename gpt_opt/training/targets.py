"""Objects that a config names by their `_target_`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate


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
