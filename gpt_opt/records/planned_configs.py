"""The configs that a sweep was planned with, `planned_configs.jsonl`: a run compares what it composes with its own.

The first line has a whole config, of what identifies a run; the line of every other run has where it differs from
that: the file grows by a few keys a run, however many keys a config has.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from gpt_opt.records.io import JsonLines, read_lines
from gpt_opt.records.run_id import TRAINING, Identity

CHANGED = "must have the config that was planned"
"""Words in the message of a run that refuses to train another config; by them its slot knows the cause."""

_MOST_KEYS = 5

Change = tuple[tuple[str, ...], tuple[Any, ...]]
"""Keys that lead to a node, and its value; an empty tuple where the config has no such node."""

_ABSENT = object()


def changes_text(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """Returns in words what `Identity.differences` tells of a planned and of another config."""
    lines = [f"{key} was {there!r} and is {here!r}" for key, (there, here) in list(differing.items())[:_MOST_KEYS]]
    more = f", and {len(differing) - _MOST_KEYS} more keys" if len(differing) > _MOST_KEYS else ""
    return ", ".join(lines) + more


class ConfigChanges:
    """Tells in what configs differ from the first one, as they come in; nodes that they share are not looked into."""

    def __init__(self, identity: Identity = TRAINING) -> None:
        self._excluded, self._first = identity.excluded, cast("Mapping[str, Any] | None", None)

    def add(self, config: Mapping[str, Any]) -> list[Change]:
        """Returns the changes of a resolved config; of the first one all of it."""
        own = {key: value for key, value in config.items() if key not in self._excluded}
        if self._first is None:
            self._first = own
            return [((key,), (value,)) for key, value in own.items()]
        return list(_changes(self._first, own, ()))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Change]:
    for key, value in after.items():
        former = before.get(key, _ABSENT)
        if value is former:
            continue
        if type(value) is not type(former):
            yield (*path, key), (value,)
        elif isinstance(value, dict) and isinstance(former, dict):
            yield from _changes(former, value, (*path, key))
        elif repr(value) != repr(former):  # 1, 1.0 and true are equal, also inside a list
            yield (*path, key), (value,)
    if len(after) < len(before) or not after.keys() >= before.keys():
        yield from (((*path, key), ()) for key in before if key not in after)


def text_of(runs: Iterable[tuple[str, Sequence[Change]]]) -> str:
    """Returns the text of the file for run ids with their changes, as `ConfigChanges` told them."""
    return "".join(json.dumps({"run_id": run_id, "changes": changes}, default=str) + "\n" for run_id, changes in runs)


def planned_config(file: Path, run_id: str, identity: Identity = TRAINING) -> dict[str, Any] | None:
    """Returns what was planned for a run, as far as it identifies it; None where that is not known."""
    return next((identity.part(config) for _, config in _read(file, run_id)), None)


def read_planned_configs(file: Path) -> dict[str, dict[str, Any]]:
    """Returns what `planned_config` does for every run of a sweep, by run id; those of damaged lines are absent."""
    return {run_id: TRAINING.part(config) for run_id, config in _read(file)}


def read_changes(file: Path) -> JsonLines[tuple[str, list[Any]]]:
    """Reads the lines of the file: run ids with changes, as JSON has them; an absent file, or one of before, has none.

    Raises:
        OSError: If it cannot be read.
    """
    return read_lines(file, lambda record: (str(record["run_id"]), list(record["changes"])))


def _read(file: Path, only: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields run ids with their configs, or `only` one of them; all others depend on the first line."""
    first: dict[str, Any] | None = None
    with suppress(OSError):
        lines = read_changes(file)
        for run_id, changes in lines.records if all(number > 1 for number, _ in lines.foreign) else ():
            if first is None or only in (None, run_id):
                config = copy.deepcopy(first or {})
                try:
                    _apply(config, changes)
                except (LookupError, TypeError, ValueError):
                    if first is None:
                        return
                    continue
                first = config if first is None else first
                if only in (None, run_id):
                    yield run_id, config


def _apply(config: dict[str, Any], changes: Iterable[Any]) -> None:
    for path, value in changes:
        node = config
        for key in path[:-1]:
            node = node[key]
        if value:
            node[path[-1]] = copy.deepcopy(value[0])
        else:
            del node[path[-1]]
