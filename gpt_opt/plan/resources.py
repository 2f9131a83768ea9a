"""What the points of a sweep need from the cluster: the sweep file, the config group `resources`, and flags say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from gpt_opt.errors import ConfigError, Problem
from gpt_opt.sweep.model import SITE_FIELDS, Resources, settings


def merged(file: Resources, group: Mapping[str, Any], flags: Mapping[str, Any]) -> Resources:
    """Returns resources where a flag beats the config group, and the group beats the sweep file.

    Args:
        file: What the sweep file says.
        group: The node `resources` of the config; null says nothing.
        flags: Options of the command line; None says nothing.

    Raises:
        ConfigError: If a value is none that the field may have.
    """
    given: dict[str, Any] = {}
    problems = []
    for origin, values in (("resources", group), ("--", flags)):
        for name, (kind, doc, _) in settings(Resources).items():
            value = values.get(name)
            if value is None or value == [] or value == ():
                continue
            if not kind.accepts(list(value) if isinstance(value, tuple) else value):
                key = f"--{name.replace('_', '-')}" if origin == "--" else f"resources.{name}"
                problems.append(Problem(key, f"({doc}) must be {kind.expects}, but is {value!r}"))
            given[name] = tuple(value) if isinstance(value, list) else value
    if problems:
        raise ConfigError(problems, ", nothing was submitted")
    return replace(file, **given)


class SweepResources:
    """Finds what every point needs, and says where points that are one run ask for different things.

    Args:
        file: What the sweep file says.
        flags: Options of the command line, which hold for every point; None says nothing.
        key: Top-level key of the configs that says it too; None for none.
    """

    def __init__(self, file: Resources, flags: Mapping[str, Any], key: str | None) -> None:
        self._file, self._flags, self._key = file, flags, key
        self._merged: dict[str, Resources] = {}
        self._conflicts: dict[str, list[tuple[int, Any, int, Any]]] = {}

    def of(self, config: Mapping[str, Any]) -> Resources:
        """Returns what a point needs; points that need the same share one object.

        Raises:
            ConfigError: If a value is none that the field may have.
        """
        group = (config.get(self._key) if self._key else None) or {}
        name = repr(group)
        if name not in self._merged:
            found = merged(self._file, group, self._flags)
            self._merged[name] = next((item for item in self._merged.values() if item == found), found)
        return self._merged[name]

    def add_same_run(self, first: int, needed: Resources, point: int, resources: Resources) -> None:
        """Notes that a point is the same run as an earlier one, which needed `needed`."""
        if needed is not resources:
            for item in fields(Resources):
                values = (getattr(needed, item.name), getattr(resources, item.name))
                if values[0] != values[1]:
                    self._conflicts.setdefault(item.name, []).append((first, values[0], point, values[1]))

    def problems(self) -> Iterator[Problem]:
        """Yields every key in which points that are one run differ, with the first two such points."""
        for name, pairs in self._conflicts.items():
            first, one, point, other = pairs[0]
            more = f" ({len(pairs)} such pairs of points)" if len(pairs) > 1 else ""
            message = (
                f"must be the same for point {first} and point {point}, which are one run, because resources change no "
                f"result, but is {_shown(one)} and {_shown(other)}{more}"
            )
            flag = f"--{name.replace('_', '-')}"
            yield Problem(f"resources.{name}", message, f"give both the same, or {flag} for all to gptopt submit")


def to_record(resources: Resources) -> dict[str, Any]:
    """Returns what is said, as JSON values."""
    values = {item.name: getattr(resources, item.name) for item in fields(Resources)}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v is not None and v != ()}


def from_record(record: Mapping[str, Any]) -> Resources:
    """Reads what `to_record` wrote."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
    return Resources(**values)


def needs(resources: Resources) -> str:
    """Returns what one run needs, for people: `2 GPUs on each of 2 nodes, 4 cores, 32 GB, 240 min, partition=gpu`."""
    gpus = 1 if resources.gpus_per_run is None else resources.gpus_per_run
    parts = ["no GPU" if gpus == 0 else "1 GPU" if gpus == 1 else f"{gpus} GPUs"]
    if (nodes := resources.nodes_per_run or 1) > 1:
        parts[0] += f" on each of {nodes} nodes"
    if (together := resources.runs_per_gpu or 1) > 1:
        parts[0] += f" for {together} runs"
    values = {name: getattr(resources, name) for name in settings(Resources)}
    cores = "{} core" if values["cpus_per_run"] == 1 else "{} cores"
    named = {"cpus_per_run": cores, "mem_gb": "{:g} GB", "time_min": "{} min"}
    parts += [text.format(values[name]) for name, text in named.items() if values[name] is not None]
    parts += [f"{name}={values[name]}" for name in SITE_FIELDS if values[name] is not None]
    return ", ".join([*parts, *resources.sbatch])


def _shown(value: Any) -> str:
    return "not given" if value is None or value == () else repr(list(value) if isinstance(value, tuple) else value)
