"""Frames of runs and metrics as `load_runs` and `load_metrics` return them, made without files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

LR = "optimizer.optimizer_params.lr"
NAME = "optimizer.optimizer_params.name"
ACCURACY = "eval/rewards/accuracies"


def grid(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns the points of a product; `__` in a name stands for a dot."""
    keys = [key.replace("__", ".") for key in axes]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*axes.values())]


def run_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns a frame of runs, each given by its config values, metrics and whatever else differs from a done run."""
    moment = pd.Timestamp("2025-11-20T12:00:00Z")
    fixed = {
        "state": "COMPLETED", "step": 100, "total_steps": 100, "attempt": 1, "started": moment, "updated": moment,
        "time_s": 60.0, "tokens": 100_000, "peak_memory_mb": 100.0, "error": None,
    }  # fmt: skip
    records = [
        {"run_id": f"{number:012x}", **fixed, "path": f"outputs/run-{number:012x}", **row}
        for number, row in enumerate(rows)
    ]
    frame = pd.DataFrame.from_records(records)
    return frame.astype({"step": "Int64", "total_steps": "Int64", "attempt": "Int64", "tokens": "Int64"})


def metric_frame(runs: pd.DataFrame, value: Callable[[pd.Series, np.ndarray], Mapping[str, Any]]) -> pd.DataFrame:
    """Returns the rows of each run at the steps 0, 10, ..., 100; `value` gives the metrics of a run at its steps."""
    frames = []
    for _, run in runs.iterrows():
        steps = np.arange(0, 101, 10)
        time = pd.Timestamp("2025-11-20T12:00:00Z") + pd.to_timedelta(steps * 0.6, unit="s")
        columns = {"run_id": run["run_id"], "path": run["path"], "step": steps, "time": time}
        frames.append(pd.DataFrame({**columns, **value(run, steps)}))
    return pd.concat(frames, ignore_index=True)
