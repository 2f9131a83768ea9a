"""Frames of runs as `load_runs` makes them, from a line a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.frame import RunRow, runs_frame
from gpt_opt.records.state import State

ACCURACY = "eval/rewards/accuracies"


def run(
    config: Mapping[str, Any],
    value: float | None = None,
    metric: str = ACCURACY,
    state: State = State.COMPLETED,
    **fixed: Any,
) -> RunRow:
    """Returns a run with one metric, or with none."""
    name = "-".join(f"{key}={item}" for key, item in config.items())
    record = {"run_id": f"id of {name}", "state": str(state), "path": f"outputs/{name}", "step": 100, "time_s": 60.0}
    metrics = {} if value is None else {metric: value}
    return RunRow({**record, "tokens": 1000, "total_steps": 100, **fixed}, metrics, dict(config))


def frame(*runs: RunRow, sweep: str | None = None) -> pd.DataFrame:
    """Returns the frame of some runs."""
    return runs_frame(runs, [], sweep)


def grid(values: Mapping[float, list[float | None]], metric: str = ACCURACY) -> pd.DataFrame:
    """Returns a frame of runs by beta, a seed for each value; None for a run that has not started."""
    return frame(
        *(
            run({"loss.beta": beta, "seed": seed}, value, metric, State.PENDING if value is None else State.COMPLETED)
            for beta, of_seeds in values.items()
            for seed, value in enumerate(of_seeds)
        )
    )
