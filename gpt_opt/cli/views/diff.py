"""What differs between two runs, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from analysis.parameters import format_value
from analysis.run_diff import ABSENT, Pair, RunDiff
from gpt_opt.records.metrics import metric_text
from gpt_opt.table import Column, render, wrapped

_NO_VALUE = "-"
_LINES = "{} lines"
_SHORT = 12
"""Hex digits of a commit that people are shown."""


def _text(key: str, value: Any) -> str:
    if value is ABSENT:
        return _NO_VALUE
    if key == "uncommitted changes":
        return _LINES.format(str(value).count("\n"))
    return format_value(str(value)[:_SHORT] if key == "commit" else value)


def _columns(part: str, keys: Mapping[str, Pair]) -> list[Column]:
    is_number = part == "metrics"
    text = _metric if is_number else _text
    columns = [Column(part, list(keys), flexible=True)]
    for side, name in enumerate(("first", "second")):
        texts = [text(key, pair[side]) for key, pair in keys.items()]
        columns.append(Column(name, texts, right=is_number, flexible=not is_number))
    if is_number:
        columns.append(Column("change", [_change(key, *pair) for key, pair in keys.items()], right=True))
    return columns


def _metric(key: str, value: Any) -> str:
    return metric_text(key, value) if _is_number(value) else _text(key, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _change(key: str, first: Any, second: Any) -> str:
    if not (_is_number(first) and _is_number(second) and math.isfinite(second - first)):
        return _NO_VALUE
    text = metric_text(key, second - first)
    return text if text.startswith("-") else f"+{text}"


def as_text(found: RunDiff, width: int | None) -> str:
    """Returns what differs for a terminal, and one line that says what is equal."""
    names = zip(("first", "second"), found.runs, strict=True)
    lines = [line for name, root in names for line in wrapped(f"{name}: {root}", width)]
    for part, keys in found.parts.items():
        lines += ["", *render(_columns(part, keys), width)]
    lines += [""] if found.parts else ["", "nothing differs"]
    lines += [line for text in _notes(found) for line in wrapped(text, width)]
    return "\n".join(lines)


def _notes(found: RunDiff) -> list[str]:
    equal = [f"equal: {', '.join(found.equal.values())}"] if found.equal else []
    seen = [f"the code in full: {command}" for command in found.commands]
    return [*equal, *seen, *(f"problem: {line}" for line in found.problems)]


def as_record(found: RunDiff) -> dict[str, Any]:
    """Returns what differs as JSON values; what a run does not have is null."""
    parts = {
        part: {key: {"first": _json(first), "second": _json(second)} for key, (first, second) in keys.items()}
        for part, keys in found.parts.items()
    }
    first, second = map(str, found.runs)
    rest = {"equal": list(found.equal), "commands": list(found.commands), "problems": list(found.problems)}
    return {"first": first, "second": second, "differs": parts, **rest}


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
