"""Frames of runs of the form that `load_runs` gives, from a line a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.run_table import RUN_COLUMNS, SWEEP_COLUMNS
from gpt_opt.records.state import State

ACCURACY = "eval/rewards/accuracies"


@dataclass(frozen=True)
class Run:
    """One run: its fixed columns, its metrics, its config by dotted key."""

    fixed: dict[str, Any]
    metrics: dict[str, float]
    config: dict[str, Any]


def run(
    config: Mapping[str, Any],
    value: float | None = None,
    metric: str = ACCURACY,
    state: State = State.COMPLETED,
    **fixed: Any,
) -> Run:
    """Returns a run with one metric, or with none."""
    name = "-".join(f"{key}={item}" for key, item in config.items())
    record = {"run_id": f"id of {name}", "state": str(state), "path": f"outputs/{name}", "step": 100, "time_s": 60.0}
    metrics = {} if value is None else {metric: value}
    return Run({**record, "tokens": 1000, "total_steps": 100, **fixed}, metrics, dict(config))


def _config_column(values: list[Any]) -> pd.Series:
    """Strings are categories, lists stay lists."""
    kinds = {type(value) for value in values if value is not None}
    return pd.Series(values, dtype="category" if kinds == {str} else "object" if list in kinds else None)


def frame(*runs: Run, sweep: str | None = None) -> pd.DataFrame:
    """Returns the frame of some runs."""
    types = RUN_COLUMNS if sweep is None else {**RUN_COLUMNS, **SWEEP_COLUMNS}
    columns = {name: pd.Series([item.fixed.get(name) for item in runs], dtype=dtype) for name, dtype in types.items()}
    for key in dict.fromkeys(key for item in runs for key in item.config):
        columns[key] = _config_column([item.config.get(key) for item in runs])
    for name in dict.fromkeys(name for item in runs for name in item.metrics):
        columns[name] = pd.Series([item.metrics.get(name) for item in runs], dtype="float64")
    return pd.DataFrame(columns)


def grid(values: Mapping[float, list[float | None]], metric: str = ACCURACY) -> pd.DataFrame:
    """Returns a frame of runs by beta, a seed for each value; None for a run that has not started."""
    return frame(
        *(
            run({"loss.beta": beta, "seed": seed}, value, metric, State.PENDING if value is None else State.COMPLETED)
            for beta, of_seeds in values.items()
            for seed, value in enumerate(of_seeds)
        )
    )
