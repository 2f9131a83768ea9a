"""What the points of a sweep need from the cluster: one allocation serves all of them, so they must need the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from gpt_opt.config.checks.constraints import batch_problems
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.sweep.model import Resources, settings


def merged(file: Resources, group: Mapping[str, Any], flags: Mapping[str, Any]) -> Resources:
    """Returns resources where a flag beats the config group, and the group beats the sweep file.

    Args:
        file: What the sweep file says.
        group: The node `resources` of the config; null says nothing.
        flags: Options of the command line; None says nothing.

    Raises:
        ConfigError: If a value is none that the field may have.
    """
    said: dict[str, Any] = {}
    problems = []
    for origin, values in (("resources", group), ("--", flags)):
        for name, (kind, doc, _) in settings(Resources).items():
            value = values.get(name)
            if value is None or value == [] or value == ():
                continue
            if not kind.accepts(list(value) if isinstance(value, tuple) else value):
                key = f"--{name.replace('_', '-')}" if origin == "--" else f"resources.{name}"
                problems.append(Problem(key, f"({doc}) must be {kind.expects}, but is {value!r}"))
            said[name] = tuple(value) if isinstance(value, list) else value
    if problems:
        raise ConfigError(problems, ", nothing was submitted")
    return replace(file, **said)


class SweepResources:
    """Collects the resources of every point, and says where they differ.

    Args:
        file: What the sweep file says.
        flags: Options of the command line, which hold for every point; None says nothing.
    """

    def __init__(self, file: Resources, flags: Mapping[str, Any]) -> None:
        self._file, self._flags = file, flags
        self._merged: dict[str, Resources] = {}
        self._points: dict[Resources, list[int]] = {}

    def add(self, point: int, config: Mapping[str, Any]) -> Resources:
        """Notes what a point needs, and returns it.

        Raises:
            ConfigError: If a value is none that the field may have.
        """
        group = config.get("resources") or {}
        name = repr(group)
        if name not in self._merged:
            self._merged[name] = merged(self._file, group, self._flags)
        resources = self._merged[name]
        self._points.setdefault(resources, []).append(point)
        return resources

    @property
    def common(self) -> Resources:
        """What every point needs, where `problems` has none."""
        return next(iter(self._points), None) or merged(self._file, {}, self._flags)

    def problems(self) -> Iterator[Problem]:
        """Yields every key in which points differ, with two of its values and points that have them."""
        for item in fields(Resources):
            points: dict[Any, list[int]] = {}
            for resources, indices in self._points.items():
                points.setdefault(getattr(resources, item.name), []).extend(indices)
            if len(points) > 1:
                (one, first), (other, second) = list(points.items())[:2]
                more = f", and {len(points) - 2} more values" if len(points) > 2 else ""
                message = (
                    "must be the same for every point, because one allocation serves the whole sweep, but is "
                    f"{_said(one)} for {_shown(first)} and {_said(other)} for {_shown(second)}{more}"
                )
                fix = f"write a sweep file for each, or give --{item.name.replace('_', '-')} for all to gptopt submit"
                yield Problem(f"resources.{item.name}", message, fix)


def _said(value: Any) -> str:
    return "not given" if value is None or value == () else repr(list(value) if isinstance(value, tuple) else value)


def _shown(points: list[int]) -> str:
    first = min(points)
    return f"point {first}" if len(points) == 1 else f"{len(points)} points (the first is point {first})"


def process_problems(config: Mapping[str, Any], resources: Resources) -> Iterator[Problem]:
    """Checks that a training can be split over the processes that its run will have."""
    gpus = resources.gpus_per_run
    count = max(1, gpus or 1) * (resources.nodes_per_run or 1)
    for backend in ("deepspeed", "fsdp"):
        if config.get(backend) and count < 2:
            problem = f"shards a training over processes, so gpus_per_run must be at least 2, but is {_said(gpus)}"
            yield Problem(backend, problem, f"set resources.gpus_per_run=2, or {backend}=none")
    if count > 1 and not list(batch_problems(config["training"]["training_params"])):
        yield from batch_problems(config["training"]["training_params"], count)
