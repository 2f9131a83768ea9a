"""Run directories as gpt_opt writes them, made in a temporary folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.config.nested import set_at
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, write_state

MakeRun = Callable[..., RunPaths]


def _config(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a small resolved config with values set by dotted key."""
    config: dict[str, Any] = {
        "seed": 0,
        "exp_name": None,
        "model": {"name": "tiny-gpt2", "config": {"n_embd": 128, "n_layer": 4}},
        "data": {"dataset": {"name": "pydoc", "max_samples": None}},
        "loss": {"name": "dpo", "beta": 0.1, "reference_free": False},
        "optimizer": {"optimizer_params": {"name": "adamw", "lr": 5e-4, "betas": [0.9, 0.999]}},
        "training": {"training_params": {"batch_size": 16, "max_steps": 200}},
        "lora": None,
        "paths": {"output_dir": "outputs"},
    }
    for key, value in overrides.items():
        set_at(config, key, value)
    return config


def _curve(scale: float) -> list[dict[str, float]]:
    """Returns the lines of a metrics.jsonl: a training line and an evaluation line a step."""
    rows: list[dict[str, float]] = []
    for step in (10, 20):
        moment = 1_760_000_000.0 + step
        rows.append({"step": step, "time": moment, "loss": 0.6 - step / 1000, "rewards/accuracies": 0.75, "kl": 0.5})
        evaluation = {"eval/rewards/accuracies": 0.5 + step / 1000, "eval/rewards/margins": scale * step / 100}
        rows.append({"step": step, "time": moment + 1, "eval/loss": 0.6, **evaluation, "eval/kl": step / 100})
    return rows


FINAL = {
    "loss": 0.4523,
    "eval/loss": 0.5012,
    "eval/rewards/accuracies": 0.781,
    "eval/rewards/margins": 0.9876,
    "eval/kl": 1.25,
}


@pytest.fixture(autouse=True)
def _warnings() -> None:
    """Lets warnings of `analysis` through, which commands that a test has called may have silenced."""
    logging.getLogger("analysis").setLevel(logging.NOTSET)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An empty folder of runs."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


@pytest.fixture
def make_run(outputs: Path) -> MakeRun:
    """Makes a run: config values by dotted key, state, metric lines (margins go with `scale`), final metrics."""

    def make(
        config: Mapping[str, Any] | None = None,
        state: State = State.COMPLETED,
        rows: Iterable[Mapping[str, Any]] | None = None,
        final: Mapping[str, Any] | None = FINAL,
        time_s: float = 61.25,
        scale: float = 1.0,
        **fields: Any,
    ) -> RunPaths:
        count = sum(1 for _ in outputs.glob("*/*/*/*"))
        paths = RunPaths(outputs / "tiny-gpt2" / "pydoc" / "adamw" / f"run-{count:012x}")
        paths.claims.mkdir(parents=True)
        run_id = f"{count:012x}"
        moments = {"started": "2025-11-20T23:50:00.123+00:00", "updated": "2025-11-20T23:51:01.000+00:00"}
        record = {"attempt": 1, "step": 200, "total_steps": 200, **moments, **fields}
        write_state(paths, RunState(run_id, state, **record))
        write_text(paths.config, to_json(_config(config or {})))
        written = _curve(scale) if rows is None else rows
        write_text(paths.metrics, "".join(json.dumps(row) + "\n" for row in written))
        if final is not None:
            costs = {"time_s": time_s, "tokens": 512000, "peak_memory_mb": 812.5}
            summary = {"run_id": run_id, "attempt": 1, "step": 200, "metrics": final, **costs}
            write_text(paths.summary, to_json(summary))
        return paths

    return make
