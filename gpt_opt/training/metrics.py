"""What a training counts: metrics since the last log line, tokens, seconds; the line they end up in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gpt_opt.records.metrics import EVALUATION, METRICS

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


class MetricAccumulator:
    """Running means of named values, kept on the device so that adding to them never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds each element of each tensor, of any shape and type, with weight 1; the sums are float64."""
        for name, value in values.items():
            self.add_sum(name, value.detach().sum(), value.numel())

    def add_sum(self, name: str, total: Tensor, count: float) -> None:
        """Adds a sum of `count` values, a scalar of any type."""
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


class Progress:
    """What a training counts, over all attempts up to their checkpoints.

    Attributes:
        metrics: Of the steps since the last log line.
        last_metrics: Last value of every metric, by its flat name.
        tokens: Tokens that went through the policy in training steps, without padding.
    """

    def __init__(self) -> None:
        self.metrics = MetricAccumulator()
        self.last_metrics: dict[str, float] = {}
        self.tokens = 0
        self._started = time.perf_counter()
        self._tokens_at_log, self._time_at_log = 0, time.perf_counter()

    def time_s(self) -> float:
        """Returns the seconds of training, evaluations and checkpoints included."""
        return time.perf_counter() - self._started

    def tokens_per_second(self) -> float:
        """Returns the speed since this was last asked, without the time of `exclude`."""
        elapsed = time.perf_counter() - self._time_at_log
        speed = (self.tokens - self._tokens_at_log) / max(elapsed, 1e-9)
        self._tokens_at_log, self._time_at_log = self.tokens, time.perf_counter()
        return round(speed, 1)

    def exclude(self, seconds: float) -> None:
        """Leaves the time of an evaluation out of the speed."""
        self._time_at_log += seconds

    def state(self, reduce: Reduce) -> dict[str, Any]:
        """Returns what `load` takes, as JSON values."""
        return {"means": self.metrics.state(reduce), "tokens": self.tokens, "time_s": self.time_s()}

    def load(self, state: Mapping[str, Any], device: torch.device, is_first_process: bool) -> None:
        """Continues from what `state` returned; its sums are over all processes, so the first one takes them all."""
        self.tokens = self._tokens_at_log = state["tokens"]
        self._started -= state["time_s"]
        if is_first_process:
            self.metrics.load(state["means"], device)


def log_line(step: int, values: Mapping[str, float]) -> str:
    """Returns `step=100 loss=0.4523 accuracy=72.50% lr=5.000e-06` for a row of training or evaluation metrics."""
    parts = [f"step={step}"]
    for prefix in ("", EVALUATION):
        for name, info in METRICS.items():
            if (value := values.get(prefix + name)) is not None and info.log and (prefix or info.log_training):
                label, form = info.log
                parts.append(f"{prefix.replace('/', '_')}{label}={value:{form}}")
    return " ".join(parts)
