"""Values of nested mappings by their dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


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


def flat_values(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the value of everything in nested mappings that is not a mapping itself."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat_values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
