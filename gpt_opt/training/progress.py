"""How far a training has come, besides its weights: metrics since the last log line, tokens, seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from gpt_opt.training.metrics import MetricAccumulator, Reduce


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
