"""Values of nested mappings, by their dotted keys or by paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Config = Mapping[str, Any]
"""A resolved config, as plain containers."""


def value_at(node: Any, key: str) -> Any:
    """Returns what a dotted key has in nested mappings; None where it has nothing."""
    for part in key.split("."):
        if not isinstance(node, (dict, Mapping)):
            return None
        node = node.get(part)
    return node


def set_at(node: dict[str, Any], key: str, value: Any) -> None:
    """Sets what a dotted key has in nested dicts, and makes those that are not there."""
    *groups, last = key.split(".")
    for group in groups:
        node = node.setdefault(group, {})
    node[last] = value


def flat_values(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Returns everything in nested mappings that is not a mapping itself, by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flat_values(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def with_value(node: Any, path: Sequence[Any], value: Any) -> Any:
    """Returns a plain tree with another value at a path; what lies elsewhere is shared."""
    if not path:
        return value
    changed = node.copy()
    changed[path[0]] = with_value(node[path[0]], path[1:], value)
    return changed
