"""Sweeps on disk with configs, learning curves, attempts and provenance, made without training."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gpt_opt.config.nested import set_at
from gpt_opt.records.attempts import Attempt, note_start
from gpt_opt.records.io import append_records, to_json, write_text
from gpt_opt.records.planned_configs import ConfigChanges, text_of
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, write_state
from gpt_opt.records.sweep_dir import Shape, StageRecord, Submission, Sweep, SweepRun, create
from tests.dispatch.on_disk import DEAD

BEGIN = datetime(2026, 1, 1, 10, tzinfo=UTC)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ACCURACY = {"name": "eval/rewards/accuracies", "goal": "maximize"}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a small resolved config with values set by dotted key."""
    config: dict[str, Any] = {
        "seed": 0,
        "model": {"name": "tiny-gpt2", "config": {"n_embd": 128, "n_layer": 4}},
        "data": {"dataset": {"name": "pydoc", "max_samples": None}},
        "loss": {"name": "dpo", "beta": 0.1},
        "optimizer": {"optimizer_params": {"name": "adamw", "lr": 5e-4, "betas": [0.9, 0.999]}},
        "training": {"training_params": {"batch_size": 16, "max_steps": 200}},
    }
    for key, value in values.items():
        set_at(config, key, value)
    return config


def rows_of(values: Mapping[str, Any], until: int, count: int = 40, log_every: int = 5) -> list[dict[str, float]]:
    """Returns the rows of a preference run, the best for a beta of 0.1 and seed 0, an evaluation at every tenth."""
    draw = random.Random(json.dumps(values, sort_keys=True))
    beta, lr = float(values.get("loss.beta", 0.1)), float(values.get("optimizer.optimizer_params.lr", 5e-4))
    reach = 0.9 - 0.3 * abs(math.log10(beta / 0.1)) - 0.1 * abs(math.log10(lr / 5e-4)) - 0.02 * values.get("seed", 0)
    rows: list[dict[str, float]] = []
    for number in range(count + 1):
        step, part = number * log_every, number / count
        if step > until:
            break
        moment = BEGIN.timestamp() + 1.5 * step
        accuracy = reach * (1 - math.exp(-5 * part)) + draw.gauss(0, 0.003)
        common = {
            "rewards/chosen": beta * part + draw.gauss(0, 0.01),
            "rewards/rejected": -2 * beta * part + draw.gauss(0, 0.01),
            "rewards/accuracies": accuracy + draw.gauss(0, 0.02),
            "rewards/margins": 3 * beta * part + draw.gauss(0, 0.02),
            "logps/chosen": -65 + 9 * part + draw.gauss(0, 1),
            "logps/rejected": -92 + draw.gauss(0, 1),
            "kl": 12 * part + draw.gauss(0, 0.1),
        }
        speed = {"grad_norm": 2 + draw.random(), "learning_rate": lr * (1 - part), "tokens_per_second": 3600.0}
        loss = 0.6931 - 0.5 * accuracy + draw.gauss(0, 0.02)
        rows.append({"step": step, "time": moment, "loss": loss, **common, **speed})
        if number % 10 == 0:
            evaluation = {f"eval/{name}": value for name, value in {**common, "rewards/accuracies": accuracy}.items()}
            rows.append({"step": step, "time": moment + 1, "eval/loss": 0.6931 - 0.5 * accuracy, **evaluation})
    return rows


def submitted(
    folder: Path, points: Sequence[Mapping[str, Any]], stages: Sequence[tuple[str, int | None]] = (), **fields: Any
) -> Sweep:
    """Makes the sweep `beta/1` below a folder, a run for each point of dotted keys; nothing of it has begun.

    Args:
        folder: Its working directory.
        points: The config values of each run.
        stages: Stage and index of the parent of each run.
        fields: Of the submission.
    """
    places = [*stages] or [("", None)] * len(points)
    outputs = folder / "outputs" / "tiny-gpt2" / "pydoc" / "adamw"
    runs = [
        SweepRun(
            index=index,
            run_id=f"{index:012x}",
            run_dir=str(outputs / f"run{index}-{index:012x}"),
            overrides=tuple(f"{key}={value}" for key, value in point.items()),
            stage=stage,
            number=sum(name == stage for name, _ in places[:index]),
            parent=parent,
        )
        for index, (point, (stage, parent)) in enumerate(zip(points, places, strict=True))
    ]
    names = dict.fromkeys(stage for stage, _ in places if stage)
    submission = Submission(
        **{
            **{"sweep": "beta", "file": "params/beta.json", "extra": ("seed=0",), "backend": "local"},
            **{"shapes": (Shape({}, 2),), "metric": ACCURACY, "cwd": str(folder), "root": str(folder)},
            **{"stages": tuple(StageRecord(name) for name in names), **fields},
        }
    )
    changes = ConfigChanges()
    planned = text_of([(run.run_id, changes.add(nested(point))) for run, point in zip(runs, points, strict=True)])
    (folder / "sweeps" / "beta").mkdir(parents=True)
    return create(
        folder / "sweeps" / "beta",
        to_json({"grid": {"loss.beta": [0.05, 0.1]}}),
        runs,
        submission,
        lambda sweep: write_text(sweep.planned_configs, planned),
    )


def begun(
    sweep: Sweep,
    index: int,
    values: Mapping[str, Any],
    state: State = State.COMPLETED,
    steps: int = 200,
    rows: Iterable[Mapping[str, Any]] | None = None,
    cause: str | None = "completed",
    gpus: Sequence[str] = (),
    minutes: float = 10,
    error: Mapping[str, str] | None = None,
    **provenance: Any,
) -> RunPaths:
    """Writes what a run leaves: state, config, metrics, provenance, an attempt; a summary when COMPLETED."""
    run = sweep.runs[index]
    paths = RunPaths(Path(run.run_dir))
    paths.claims.mkdir(parents=True)
    start = BEGIN + timedelta(minutes=index)
    end = (start + timedelta(minutes=minutes)).isoformat(timespec="milliseconds")
    written = rows_of(values, steps) if rows is None else list(rows)
    write_text(paths.config, to_json(nested(values)))
    write_text(paths.metrics, "".join(json.dumps(row) + "\n" for row in written))
    record = {
        "git_commit": COMMIT,
        "git_dirty": False,
        "host": "node1",
        "python": "3.11.7",
        "packages": {"torch": "2.8.0", "numpy": "2.3.0"},
    }
    write_text(paths.provenance, to_json({**record, **provenance}))
    if state is State.COMPLETED:
        last = {name: value for row in written for name, value in row.items() if name not in ("step", "time")}
        costs = {"time_s": 60.0 * minutes, "tokens": 2560 * steps, "peak_memory_mb": 812.5, "device": "cpu"}
        write_text(
            paths.summary, to_json({"run_id": run.run_id, "attempt": 1, "step": steps, "metrics": last, **costs})
        )
    started = start.isoformat(timespec="milliseconds")
    moments = {"started": started, "updated": end, "host": "node1"}
    write_state(
        paths, RunState(run.run_id, state, 1, step=steps, total_steps=200, error=dict(error or {}) or None, **moments)
    )
    file = sweep.attempts(run)
    note_start(file, Attempt("a0", started, "local-1", DEAD, "node1", tuple(gpus)))
    if cause is not None:
        message = f"{error['type']}: {error['message']}" if error else ""
        append_records(file, [{"end": "a0", "time": end, "cause": cause, "code": 1, "message": message}])
    return paths
