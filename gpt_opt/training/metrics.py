"""Metrics between two log lines: sums on the device, means on demand; the file and the line they end up in."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_opt.errors import named_errors

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


class MetricAccumulator:
    """Running means of named values, kept on the device so that adding to them never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds each element of each tensor with weight 1."""
        for name, value in values.items():
            self.add_sum(name, value.detach().sum(), value.numel())

    def add_sum(self, name: str, total: Tensor, count: float) -> None:
        """Adds a sum of `count` values."""
        total = total.detach().double()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0) + count

    def state(self, reduce: Reduce) -> dict[str, list[float]]:
        """Returns [sum, count] of every name over all processes."""
        if not self._sums:
            return {}
        device = next(iter(self._sums.values())).device
        counts = torch.tensor(list(self._counts.values()), dtype=torch.float64, device=device)
        table = reduce(torch.stack([torch.stack(list(self._sums.values())), counts])).tolist()
        return {name: [table[0][index], table[1][index]] for index, name in enumerate(self._sums)}

    def load(self, state: Mapping[str, list[float]], device: torch.device) -> None:
        """Continues from what `state` returned."""
        self._sums = {
            name: torch.tensor(total, dtype=torch.float64, device=device) for name, (total, _) in state.items()
        }
        self._counts = {name: count for name, (_, count) in state.items()}

    def take(self, reduce: Reduce) -> dict[str, float]:
        """Returns the mean of every name over all processes, and starts anew."""
        means = {name: total / count for name, (total, count) in self.state(reduce).items() if count}
        self._sums, self._counts = {}, {}
        return means


class StepLog:
    """A file of one JSON object a line, each with its step; a resume drops what came after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of a step."""
        text = "".join(json.dumps({"step": step, **row}) + "\n" for row in rows)
        with named_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(text)

    def sync(self) -> None:
        """Makes every row so far survive a power failure."""
        if self._path.exists():
            with named_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
                os.fsync(stream.fileno())

    def keep_until(self, step: int) -> dict[str, Any]:
        """Drops every row after `step`, and a torn last line; returns the last value of each name that stays."""
        if not self._path.exists():
            return {}
        kept: list[str] = []
        last: dict[str, Any] = {}
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["step"] <= step:
                kept.append(line + "\n")
                last.update(row)
        temporary = self._path.with_suffix(".tmp")
        with named_errors(temporary):
            temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(self._path)
        return {name: value for name, value in last.items() if name not in ("step", "time")}


class MetricsLog(StepLog):
    """metrics.jsonl."""

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row; a value that is no number in JSON (NaN, infinity) becomes null."""
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.write(step, [{"time": round(time.time(), 3), **row}])


_SHOWN = {
    "loss": ("loss", "{:.4f}"),
    "rewards/accuracies": ("accuracy", "{:.2%}"),
    "rewards/margins": ("margin", "{:.4f}"),
    "kl": ("kl", "{:.4f}"),
    "learning_rate": ("lr", "{:.3e}"),
}


def log_line(step: int, values: Mapping[str, float]) -> str:
    """Returns `step=100 loss=0.4523 accuracy=72.50% lr=5.000e-06` for a row of training or evaluation metrics."""
    parts = [f"step={step}"]
    for prefix in ("", "eval/"):
        for name, (short, form) in _SHOWN.items():
            if (value := values.get(prefix + name)) is not None and (prefix or short not in ("margin", "kl")):
                parts.append(f"{prefix.replace('/', '_')}{short}={form.format(value)}")
    return " ".join(parts)
