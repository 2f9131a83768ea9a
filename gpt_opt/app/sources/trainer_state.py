"""trainer_state.json, which the Trainer of transformers writes into its checkpoints, and at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.app.sources.row import Row, step_of
from gpt_opt.records.io import number, read_json_object

NAME = "trainer_state.json"

_PREFIXES = ("eval", "test")


class TrainerState:
    """Reads the log of a training, each time in the newest file that has it: each has all before its checkpoint."""

    def __init__(self) -> None:
        self._read: list[Row] = []

    def new_rows(self, file: Path) -> Iterator[Row]:
        """Yields the rows from the first on that is not as it was, as `Reader` says."""
        found = rows(read_json_object(file))
        pairs = zip(self._read, found, strict=False)
        same = next((place for place, (old, new) in enumerate(pairs) if old != new), min(len(self._read), len(found)))
        self._read = found
        yield from found[same:]


def rows(state: Mapping[str, Any]) -> list[Row]:
    """Returns the log of a training, the names of evaluations as the Trainer's own trackers have them: `eval/loss`."""
    history, total = state.get("log_history"), step_of(state.get("max_steps"))
    found: list[Row] = []
    for logged in history if isinstance(history, list) else []:
        step = step_of(logged.get("step")) if isinstance(logged, dict) else None
        if step is not None:
            numbers = {metric_name(name): number(value) for name, value in logged.items() if name != "step"}
            values = {name: value for name, value in numbers.items() if value is not None}
            row: Row = {"step": step, "time": None, "values": values}
            found.append(row if total is None else {**row, "total_steps": total})
    return found


def metric_name(name: str) -> str:
    """Returns what the Trainer calls a metric in its trackers: `eval/loss` of `eval_loss`."""
    prefix, _, rest = name.partition("_")
    return f"{prefix}/{rest}" if prefix in _PREFIXES and rest else name
