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


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether Hydra wrote its records into a folder with these names."""
    return ".hydra" in names


def read_yaml(path: Path, problems: Problems) -> Any:
    """Returns what a file of YAML holds, no objects made of it; None where it is absent or broken."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems.add(path, f"must be YAML, but cannot be read: {error}")
        return None


def read(folder: str) -> Part:
    """Reads the config of a run; where that is missing, the overrides alone."""
    place, problems, part = Path(folder, ".hydra"), Problems(), Part("Hydra")
    config = read_yaml(place / "config.yaml", problems)
    if isinstance(config, dict):
        part.config = _resolved(config, config)
    else:
        overrides = read_yaml(place / "overrides.yaml", problems)
        part.config = _of_overrides(overrides if isinstance(overrides, list) else [])
        part.missing.append(".hydra/config.yaml, so no more than its overrides is known of its config")
    part.problems = problems.found
    return part


def _of_overrides(overrides: list[Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for text in map(str, overrides):
        key, sign, value = text.partition("=")
        if not sign or key.startswith("~"):
            continue
        try:
            config[key.lstrip("+").replace("/", ".")] = yaml.load(value, Loader=_LOADER)
        except yaml.YAMLError:
            config[key.lstrip("+").replace("/", ".")] = value
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
