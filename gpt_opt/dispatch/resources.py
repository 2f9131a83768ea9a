"""What one run needs, put together from the sweep file, the config group `resources` and flags; as sbatch options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

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


def as_record(resources: Resources) -> dict[str, Any]:
    """Returns what is said, as JSON values."""
    values = {item.name: getattr(resources, item.name) for item in fields(Resources)}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v is not None and v != ()}


def from_record(record: Mapping[str, Any]) -> Resources:
    """Reads what `as_record` wrote."""
    said: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
    return Resources(**said)


def site_options(resources: Resources) -> list[str]:
    """Returns the sbatch options that do not depend on how runs are spread, the user's own lines last."""
    named = {
        "time": resources.time_min,
        "partition": resources.partition,
        "qos": resources.qos,
        "account": resources.account,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
    }
    return [*(f"--{name}={value}" for name, value in named.items() if value is not None), *resources.sbatch]


def mem_mb(resources: Resources) -> int | None:
    """Returns the memory of one run in MiB, as Slurm counts."""
    return None if resources.mem_gb is None else max(1, round(resources.mem_gb * 1024))
