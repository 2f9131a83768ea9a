"""Folders of Hydra: `.hydra/config.yaml` and `.hydra/overrides.yaml`, of single runs and of multiruns."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from analysis.files import Problems
from analysis.foreign.parts import Part

_REFERENCE = re.compile(r"^\$\{([\w.]+)\}$")
_LINKS = 20
"""References that lead to references, at most: they may form a circle."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_MOST_NODES = 100_000
"""Of YAML with aliases: a few lines of them can stand for more than any memory holds."""


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether Hydra wrote its records into a folder with these names."""
    return ".hydra" in names


def read_yaml(path: Path, problems: Problems) -> Any:
    """Returns what a file of YAML holds, no objects made of it; None where it is absent or broken."""
    try:
        return _loaded(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems.add(path, f"must be YAML, but cannot be read: {error}")
        return None


def _loaded(text: str) -> Any:
    """Returns what YAML holds.

    Raises:
        YAMLError: If it is none, or its aliases stand for more than `_MOST_NODES`.
    """
    if "*" in text:  # else it has no aliases
        _require_few_nodes(text)
    return yaml.load(text, Loader=_LOADER)


def _require_few_nodes(text: str) -> None:
    """Counts the nodes of YAML without making them, an alias as all that it stands for.

    Raises:
        YAMLError: If they are too many; of an alias within what it stands for they have no end.
    """
    count, sizes = 0, dict[str | None, int]()
    begun: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(event.anchor, _MOST_NODES)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            sizes[anchor] = count - before
        if count > _MOST_NODES:
            raise yaml.YAMLError(f"its aliases (*name) must stand for at most {_MOST_NODES} values, but are more")


def read(folder: str) -> Part:
    """Reads the config of a run; where that is missing, the overrides alone."""
    place, part = Path(folder, ".hydra"), Part("Hydra")
    config = read_yaml(place / "config.yaml", part.problems)
    if isinstance(config, dict):
        part.config = _resolved(config, config)
    else:
        overrides = read_yaml(place / "overrides.yaml", part.problems)
        part.config = _of_overrides(overrides if isinstance(overrides, list) else [])
        part.missing.append(".hydra/config.yaml, so no more than its overrides is known of its config")
    return part


def _of_overrides(overrides: list[Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for text in map(str, overrides):
        key, sign, value = text.partition("=")
        if not sign or key.startswith("~"):
            continue
        name = key.lstrip("+").replace("/", ".")
        try:
            config[name] = _loaded(value)
        except (ValueError, RecursionError, yaml.YAMLError):
            config[name] = value
    return config


def _resolved(node: Any, root: dict[str, Any]) -> Any:
    """Returns a config in which values that are another key's, `${seed}`, are there; other interpolations stay text."""
    if isinstance(node, dict):
        return {str(key): _resolved(value, root) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolved(value, root) for value in node]
    value = node
    for _ in range(_LINKS):
        found = _REFERENCE.match(value) if isinstance(value, str) else None
        if found is None:
            return value if not isinstance(value, dict | list) else node
        value = root
        for key in found[1].split("."):
            if not isinstance(value, dict) or key not in value:
                return node
            value = value[key]
    return node
