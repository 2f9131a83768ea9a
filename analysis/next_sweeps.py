"""Sweep files of what to run next: what a run was started with, with other values of one key, or with more seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gpt_opt.errors import GptOptError
from gpt_opt.records.io import read_json_object, write_text
from gpt_opt.records.run_dir import RunPaths

SEED = "seed"

_OF_ONE_START = ("rerun", "dry_run")
"""Keys that say how a run is started, not what it is."""

Overrides = dict[str, Any]
"""Override keys as in a sweep file, with their JSON values."""


def read_overrides(path: str) -> Overrides:
    """Returns what the run in a directory was started with, as a sweep file says it.

    Values of config keys come from config.json, so nothing is parsed; choices of config groups are names.

    Raises:
        GptOptError: If its files cannot be read.
    """
    paths = RunPaths(Path(path))
    file = paths.hydra / "overrides.yaml"
    try:
        texts, config = yaml.safe_load(file.read_text(encoding="utf-8")), read_json_object(paths.config)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise GptOptError(f"what the run {path} was started with cannot be read: {error}") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise GptOptError(f"{file} must be a list of overrides, but is not; without it no sweep file can be made")
    found = dict(_override(text, config) for text in texts)
    return {key: value for key, value in found.items() if _target(key) not in _OF_ONE_START}


def _target(key: str) -> str:
    return key.lstrip("+~")


def _override(text: str, config: Mapping[str, Any]) -> tuple[str, Any]:
    key, _, choice = text.partition("=")
    if key.startswith("~"):
        return key, None
    node: Any = config
    *groups, last = _target(key).split(".")
    for group in groups:
        node = node.get(group) if isinstance(node, dict) else None
    if isinstance(node, dict) and last in node and (groups or not isinstance(node[last], dict | None)):
        return key, node[last]
    return key, yaml.safe_load(choice)


def _key(overrides: Overrides, target: str) -> str:
    """Returns a key as the overrides spell it."""
    return next((key for key in overrides if _target(key) == target), target)


Member = tuple[Overrides, Overrides]
"""Base and grid of a part of a sweep file."""


def sweep_file(
    name: str, members: Sequence[Member], metric: str, greater: bool, resources: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a sweep file of a base and a grid for each member.

    What all bases have alike stands once, above them.

    Args:
        name: Of the sweep.
        members: Its parts, at least one.
        metric: What its runs are compared by.
        greater: Whether greater values of it are better.
        resources: What a run needs, as in a sweep file; empty to leave it to whoever submits it.
    """
    first = members[0][0]
    common = {key: value for key, value in first.items() if all(_has(base, key, value) for base, _ in members)}
    spaces = [
        {"base": {key: value for key, value in base.items() if key not in common}, "grid": grid}
        for base, grid in members
    ]
    document: dict[str, Any] = {"name": name, "base": common, "union": spaces}
    if resources:
        document["resources"] = dict(resources)
    return document | {"metric": {"name": metric, "goal": "maximize" if greater else "minimize"}}


def _has(base: Overrides, key: str, value: object) -> bool:
    return key in base and type(base[key]) is type(value) and base[key] == value


def _without(overrides: Overrides, *keys: str) -> Overrides:
    return {key: value for key, value in overrides.items() if key not in keys}


def save_sweep(document: Mapping[str, Any], target: Path) -> str:
    """Writes a sweep file, and returns a line that says so.

    Raises:
        GptOptError: If it cannot be written there.
    """
    try:
        write_text(target, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise GptOptError(f"the sweep file cannot be saved there, give another file: {error}") from error
    return f"sweep file: {target} (gptopt plan {target} checks it)"


def other_values(path: str, key: str, values: Sequence[float], seeds: Sequence[Any]) -> Member:
    """Returns what a run was started with, with other values of one key.

    Args:
        path: The run directory.
        key: The config key.
        values: The values, ascending.
        seeds: With which seeds; empty for that of the run.

    Raises:
        GptOptError: If what the run was started with cannot be read.
    """
    overrides = read_overrides(path)
    axis, seed = _key(overrides, key), _key(overrides, SEED)
    grid: Overrides = {axis: list(values)} | ({seed: list(seeds)} if seeds else {})
    return _without(overrides, *grid), grid


def with_seeds(path: str, seeds: Iterable[int], count: int) -> Member:
    """Returns what a run was started with, with so many seeds; runs that exist are among them, and done already.

    Args:
        path: The run directory.
        seeds: The seeds that there are.
        count: How many there are to be.

    Raises:
        GptOptError: If what the run was started with cannot be read.
    """
    known = sorted(seeds)
    new = (number for number in range(count + len(known)) if number not in known)
    known += [next(new) for _ in range(count - len(known))]
    overrides = read_overrides(path)
    seed = _key(overrides, SEED)
    return _without(overrides, seed), {seed: sorted(known)}
