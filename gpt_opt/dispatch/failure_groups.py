"""Failed and interrupted runs, grouped by cause, with the parameters that each group has in common."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from gpt_opt.records.attempts import CAUSES
from gpt_opt.records.state import State
from gpt_opt.sweep.varying import common_and_varying, parameters

_NEED_MESSAGE = ("exception", "request", "changed_config")
"""Causes that say little without the message of the run."""

_VARYING = re.compile(
    r"(?:[\w.~-]*/)[\w./@+=,-]+"  # a path
    r"|0[xX][0-9a-fA-F]+"
    r"|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
)


@dataclass(frozen=True)
class Failure:
    """One run that failed or was interrupted.

    Attributes:
        index: Of the run.
        state: FAILED or INTERRUPTED.
        cause: Key of `CAUSES`.
        message: First line of its error; may be empty.
        stage: Of the run; "" in a sweep without stages.
    """

    index: int
    state: State
    cause: str
    message: str
    stage: str = ""


@dataclass(frozen=True)
class FailureGroup:
    """Runs that failed alike.

    Attributes:
        state: Of all of them.
        cause: Key of `CAUSES`.
        message: For people: the cause, or the message where it says more, `…` where messages differ.
        indices: Of the runs, ascending.
        shared: Override values that all of them have and that not all runs of the sweep, or of their stage, have.
        stage: Of all of them.
    """

    state: State
    cause: str
    message: str
    indices: tuple[int, ...]
    shared: Mapping[str, str]
    stage: str = ""


def normalised(message: str) -> str:
    """Returns a message with `…` for its numbers and paths."""
    return _VARYING.sub("…", message)


def _key(failure: Failure) -> tuple[State, str, str, str]:
    text = normalised(failure.message) if failure.cause in _NEED_MESSAGE else ""
    return failure.state, failure.cause, failure.stage, text


def _message(failures: Sequence[Failure]) -> str:
    cause = failures[0].cause
    messages = {failure.message for failure in failures}
    if cause not in _NEED_MESSAGE or messages == {""}:
        return CAUSES[cause].message
    return messages.pop() if len(messages) == 1 else normalised(failures[0].message)


def grouped(
    failures: Sequence[Failure],
    overrides: Mapping[int, Sequence[str]],
    stages: Mapping[int, str] = MappingProxyType({}),
) -> tuple[FailureGroup, ...]:
    """Groups failures by cause, stage and message, the largest group first.

    Args:
        failures: In order of their index.
        overrides: Of every run of the sweep, by index.
        stages: The stages of these runs, by index; of a sweep without stages none.
    """
    groups: dict[tuple[State, str, str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault(_key(failure), []).append(failure)
    found = []
    for (state, cause, stage, _), members in groups.items():
        _, varying = common_and_varying([given for i, given in overrides.items() if stages.get(i, "") == stage])
        indices = tuple(member.index for member in members)
        values = [parameters(overrides[index]) for index in indices]
        shared = {key: value for key, value in values[0].items() if key in varying}
        shared = {key: value for key, value in shared.items() if all(item.get(key) == value for item in values)}
        found.append(FailureGroup(state, cause, _message(members), indices, shared, stage))
    return tuple(sorted(found, key=lambda group: -len(group.indices)))
