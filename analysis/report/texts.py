"""Values and texts as a report shows them."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gpt_opt.records.state import State

_MOST_TEXT = 1_000
"""Characters of a config value."""

_REFERENCE = re.compile(r"run:([0-9a-f]{12})")


class Texts:
    """Makes values and texts fit to be shown: paths relative, ids of runs as their names, nothing overlong.

    Args:
        base: The working directory of the runs.
        names: What people call runs that others start from, by their ids.
    """

    def __init__(self, base: Path, names: Mapping[str, str]) -> None:
        self._base, self._names = base, names

    def path(self, path: Path) -> str:
        """Returns a path relative to the working directory of the runs, where it lies below that."""
        return os.path.relpath(path, self._base) if path.is_relative_to(self._base) else str(path)

    def text(self, text: str) -> str:
        """Returns a text in which paths are relative, and runs that others start from have their names."""
        relative = text.replace(f"{self._base}{os.sep}", "")
        return _REFERENCE.sub(lambda found: self._names.get(found[1], found[0]), relative)

    def value(self, value: Any) -> Any:
        """Returns a config value as JSON: a number, a boolean, a text, or None."""
        value = plain(value)
        if not isinstance(value, str):
            return value
        text = self.text(value)
        return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def plain(value: Any) -> Any:
    """Returns a value of a frame as JSON can hold it; lists as text, missing and NaN as None."""
    if isinstance(value, list | dict | tuple | np.ndarray):
        return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value, ensure_ascii=False)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


SIGNS: Mapping[str, str] = {
    State.COMPLETED: "✓",
    State.FAILED: "✗",
    State.RUNNING: "▶",
    State.INTERRUPTED: "‖",
    State.PENDING: "…",
    State.BLOCKED: "⊘",
    State.CANCELLED: "-",
}
"""What tells states apart without colours; any other has `!`."""


def signed(state: str) -> str:
    """Returns a state with its sign."""
    return f"{SIGNS.get(state, '!')} {state}"


def moment(seconds: float) -> str:
    """Returns a time, in seconds since 1970, as people read it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
