"""What training is given to write to and to ask, and what it gives back; free of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Folder:
    """Where training writes.

    Attributes:
        checkpoints: Folder of `checkpoint-<step>` folders in Hugging Face format.
        metrics: File of one JSON object a line.
        samples: Likewise, made only where samples are asked for.
        attempt: Number of the attempt that writes.
    """

    checkpoints: Path
    metrics: Path
    samples: Path
    attempt: int = 1


@dataclass(frozen=True)
class Hooks:
    """How training talks to whoever runs it.

    Attributes:
        progress: Called with the steps done and the steps in all at every log line.
        stop_requested: Asked after every step; True makes training checkpoint and return early.
        fence: As of `gpt_opt.records.io.fenced`; asked right before the last step of every lasting write.
        report: Called with the step and the values of every row of metrics.jsonl.
    """

    progress: Callable[[int, int], None]
    stop_requested: Callable[[], bool]
    fence: Callable[[], None]
    report: Callable[[int, Mapping[str, float]], None] = lambda step, values: None


@dataclass(frozen=True)
class Result:
    """The end of a finished training.

    Attributes:
        step: Optimizer steps done.
        final_step: Steps before the final checkpoint; fewer where the best one was kept.
        metrics: Last value of every train and evaluation metric, by its flat name; of the evaluation, what belongs to
            the final checkpoint.
        time_s: Seconds of training, evaluations and checkpoints included, over all attempts that count.
        tokens: Tokens that went through the policy in training steps.
        peak_memory_mb: Largest memory of this attempt: of the GPU where there is one, else of the process, MiB.
        device: Name of the device.
        data_fingerprint: SHA-256 of the training and validation data.
        data: For each split its `rows` and how many of them were truncated; under `dropped`, rows left out by reason.
    """

    step: int
    final_step: int
    metrics: dict[str, float]
    time_s: float
    tokens: int
    peak_memory_mb: float
    device: str
    data_fingerprint: str
    data: dict[str, dict[str, int]]

    def to_record(self) -> dict[str, Any]:
        """Returns the fields as JSON values; a metric that is no number in JSON (NaN, infinity) becomes null."""
        known = {
            name: value if value is not None and math.isfinite(value) else None for name, value in self.metrics.items()
        }
        return {**asdict(self), "metrics": known}
