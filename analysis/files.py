"""Tolerant reads of the files of a run: what is broken becomes a line of text, never an exception."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_id import leaves
from gpt_opt.records.step_log import read_metrics

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_STEP_LIMIT = 2**63


@dataclass
class Problems:
    """What could not be read, one line of text each."""

    found: list[str] = field(default_factory=list)

    def add(self, file: Path, message: str) -> None:
        """Records that `file` is not as it should be."""
        self.found.append(" ".join(f"{file}: {message}".split()))

    def of(self, file: Path) -> bool:
        """Returns whether anything is wrong with `file`."""
        return any(line.startswith(f"{file}: ") for line in self.found)


def whole(value: object) -> int | None:
    """Returns a JSON integer that fits 64 bits; None for anything else."""
    return value if type(value) is int and abs(value) < _STEP_LIMIT else None


def text(value: object) -> str | None:
    """Returns a JSON string; None for anything else."""
    return value if isinstance(value, str) else None


def take(
    record: Mapping[str, Any],
    names: Iterable[str],
    convert: Callable[[object], Value | None],
    problems: Problems,
    file: Path,
) -> dict[str, Value | None]:
    """Takes fields out of a record.

    Args:
        record: The JSON object.
        names: The fields to take; an absent one is None.
        convert: `number`, `whole` or `text`. A value that it refuses is None, and a problem.
        problems: Where to report.
        file: The file the record came from.
    """
    taken = {name: convert(record.get(name)) for name in names}
    if None in taken.values():
        refused = [name for name, value in taken.items() if value is None and record.get(name) is not None]
        if refused:
            wrong = (f"{name}={record[name]!r:.60}" for name in refused)
            problems.add(file, f"must hold a {convert.__name__} in each field, but has {', '.join(wrong)}")
    return taken


def read_object(path: Path, problems: Problems) -> dict[str, Any] | None:
    """Returns the JSON object in `path`; None when there is no such file, or when it is broken, which is reported."""
    try:
        return read_json_object(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problems.add(path, f"must be one JSON object, but cannot be read: {error}")
        return None


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of a nested config by dotted key, in order; an empty object is given as JSON text."""
    return {key: "{}" if value == {} else value for key, value in leaves(config).items()}


def read_rows(path: Path, problems: Problems) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl: flat objects of numbers, each with a `step`.

    A torn last line is what a killed run leaves and is left out with a message at level INFO. Other lines that are not
    metrics are left out too, and reported as one problem of the file.
    """
    try:
        found = read_metrics(path)
    except OSError as error:
        problems.add(path, f"cannot be read: {error}")
        return []
    if found.torn:
        log.info("%s: its last line is torn and left out", path)
    if found.foreign:
        number, fault = found.foreign[0]
        left_out = f"{len(found.foreign)} of its lines are not metrics and are left out"
        problems.add(path, f"{left_out}; the first is line {number}: {fault}")
    return found.records
