"""What one run needs, as a record of a submission and as sbatch options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gpt_opt.sweep.model import Resources


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
