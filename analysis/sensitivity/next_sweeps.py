"""Sweep files of what to run next: values beyond the edges at which optima lie, further seeds at the best points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from analysis.answers.edges import further_values
from analysis.sensitivity.budget import Asked
from analysis.sensitivity.compare import Curve
from gpt_opt.errors import GptOptError
from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_dir import RunPaths

SEED = "seed"

_OF_ONE_START = ("rerun", "dry_run")
"""Keys that say how a run is started, not what it is."""

Overrides = dict[str, Any]
"""Override keys as in a sweep file, with their JSON values."""


def read_overrides(path: str) -> Overrides:
    """Returns what a run was started with, as a sweep file says it.

    Values of config keys come from config.json, so nothing is parsed; choices of config groups are names.

    Args:
        path: The run directory.

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


def _document(
    name: str, members: Sequence[tuple[Overrides, Overrides]], asked: Asked, resources: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a sweep file of a base and a grid for each member; what all bases have alike stands once, above them."""
    first = members[0][0]
    common = {key: value for key, value in first.items() if all(_has(base, key, value) for base, _ in members)}
    spaces = [
        {"base": {key: value for key, value in base.items() if key not in common}, "grid": grid}
        for base, grid in members
    ]
    document: dict[str, Any] = {"name": name, "base": common, "union": spaces}
    if resources:
        document["resources"] = dict(resources)
    return document | {"metric": {"name": asked.metric, "goal": "maximize" if asked.greater else "minimize"}}


def _has(base: Overrides, key: str, value: object) -> bool:
    return key in base and type(base[key]) is type(value) and base[key] == value


def _without(overrides: Overrides, *keys: str) -> Overrides:
    return {key: value for key, value in overrides.items() if key not in keys}


def extension(
    curves: Iterable[Curve], asked: Asked, name: str, resources: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the sweep file that tries further values where an optimum lies at an edge; None where none does.

    Args:
        curves: What was tried.
        asked: What is compared.
        name: Of the sweep.
        resources: What a run needs, as in a sweep file.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    members = []
    for curve in curves:
        if values := further_values([point.axis for point in curve.profile], curve.optimum):
            overrides = read_overrides(curve.best.finals[0].path)
            axis, seed = _key(overrides, asked.axis), _key(overrides, SEED)
            seeds = sorted(curve.seeds - {None}) or sorted(curve.best.seeds - {None})
            grid: Overrides = {axis: _like(values, overrides.get(axis))} | ({seed: seeds} if seeds else {})
            members.append((_without(overrides, axis, seed), grid))
    return _document(name, members, asked, resources or {}) if members else None


def _like(values: list[float], example: object) -> list[Any]:
    """Returns values as integers where the key holds them."""
    return sorted({max(1, round(value)) for value in values}) if type(example) is int else values


def more_seeds(
    curves: Iterable[Curve], asked: Asked, name: str, count: int, resources: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the sweep file that runs the best points with so many seeds; None where all have them.

    Runs that exist are in it too: they are done already.

    Args:
        curves: What was tried.
        asked: What is compared.
        name: Of the sweep.
        count: Seeds of each best point.
        resources: What a run needs, as in a sweep file.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    members = []
    for curve in curves:
        seeds = sorted(curve.best.seeds - {None})
        if curve.best.values and len(seeds) < count:
            new = (number for number in range(count + len(seeds)) if number not in seeds)
            seeds += [next(new) for _ in range(count - len(seeds))]
            overrides = read_overrides(curve.best.finals[0].path)
            seed = _key(overrides, SEED)
            members.append((_without(overrides, seed), {seed: sorted(seeds)}))
    return _document(name, members, asked, resources or {}) if members else None
