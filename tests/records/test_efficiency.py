"""Sweep efficiency: training time over slot time, with numbers made by hand."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.records.drivers import Driven, driving, read_drivers
from gpt_opt.records.efficiency import Efficiency
from gpt_opt.records.io import append_records
from gpt_opt.records.run_dir import PROGRESS_FILE
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Job, Shape, Sweep
from tests.dispatch.on_disk import STARTED, UPDATED, attempt, held, make_sweep, write_run

BEFORE, AFTER = "2026-01-01T09:59:00.000+00:00", "2026-01-01T10:06:00.000+00:00"
"""A minute before the first attempt starts, and one after the last ends; an attempt takes 5 minutes, training 2."""


def driven(sweep: Sweep, session: str, slots: int, ended: str | None, shape: int = 0) -> None:
    append_records(sweep.drivers, [{"start": session, "shape": shape, "slots": slots, "time": BEFORE}])
    if ended is not None:
        append_records(sweep.drivers, [{"end": session, "shape": shape, "time": ended}])


def used(sweep: Sweep) -> Efficiency:
    return gather(sweep, ask_slurm=False).efficiency


def complete(sweep: Sweep, index: int, **how: str | None) -> None:
    write_run(sweep.runs[index], State.COMPLETED, 100)
    attempt(sweep, index, "completed", **how)


def test_slots_count_from_the_start_of_the_driver_to_its_end(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=0"], ["seed=1"], ["seed=2"]])
    complete(sweep, 0, session="7.0")
    complete(sweep, 1, session="7.0")
    driven(sweep, "7.0", 4, AFTER)
    assert used(sweep) == Efficiency(240.0, 4 * 420.0)
    complete(sweep, 2, session="7.1")  # a requeue: a further incarnation, which was killed before it wrote its end
    driven(sweep, "7.1", 2, None)
    assert used(sweep) == Efficiency(360.0, 4 * 420.0 + 2 * 360.0)
    driven(sweep, "8.0", 1, AFTER)  # an allocation that gave no slot cost what it cost
    assert used(sweep).allocated_s == 4 * 420.0 + 2 * 360.0 + 420.0


def test_without_a_record_of_the_driver_the_attempts_say_when_there_were_slots(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "driver", [["seed=0"]], shapes=(Shape({"runs_per_gpu": 2}, 4),))
    complete(sweep, 0, session="7.0")
    assert used(sweep) == Efficiency(120.0, 4 * 300.0)
    jobs = [Job("7_3", BEFORE, runs=(0,), shape=0)]
    sweep = make_sweep(tmp_path / "jobs", [["seed=0"]], jobs=jobs, shapes=(Shape({"runs_per_gpu": 2}, 4),))
    complete(sweep, 0, session="7_3.0")
    assert used(sweep) == Efficiency(120.0, 2 * 300.0)
    sweep = make_sweep(tmp_path / "hand", [["seed=0"]])
    complete(sweep, 0, session=None)
    assert used(sweep) == Efficiency(120.0, 300.0)


def test_only_what_was_trained_here_and_is_kept_counts(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=0"], ["seed=1"], ["seed=2"]])
    write_run(sweep.runs[0], State.COMPLETED, 100)  # by another sweep
    assert used(sweep).ratio is None
    paths = write_run(sweep.runs[1], State.INTERRUPTED, 60)
    attempt(sweep, 1, "stopped")
    assert used(sweep).trained_s == 0.0, "no checkpoint, nothing kept"
    (paths.checkpoints / "checkpoint-40").mkdir(parents=True)
    (paths.checkpoints / "checkpoint-40" / PROGRESS_FILE).write_text(json.dumps({"time_s": 80.0}))
    assert used(sweep) == Efficiency(80.0, 2 * 300.0)
    (paths.checkpoints / "checkpoint-40" / PROGRESS_FILE).write_text(json.dumps({"time_s": 9000.0}))
    assert used(sweep).trained_s == 300.0, "most of it was trained elsewhere"
    (paths.checkpoints / "checkpoint-40" / PROGRESS_FILE).write_text("{")
    assert used(sweep).trained_s == 0.0


def test_a_run_that_runs_counts_until_now(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=0"]])
    paths = write_run(sweep.runs[0], State.RUNNING, 60)
    attempt(sweep, 0, None)
    assert used(sweep) == Efficiency(0.0, 600.0), "its process is gone: its last sign of life is its end"
    with held(paths):
        now = datetime.now().timestamp() - datetime.fromisoformat(STARTED).timestamp()
        found = used(sweep)
        assert found.trained_s == pytest.approx(now, abs=60)
        assert found.allocated_s == pytest.approx(2 * now, abs=120)


def test_a_driver_writes_down_its_start_and_its_end(tmp_path: Path) -> None:
    file = tmp_path / "drivers.jsonl"
    with driving(file, "7.0", 1, 4):
        assert [(item.slots, item.ended) for item in read_drivers(file)] == [(4, None)]
    with file.open("a") as stream:
        stream.write('{"end": "9.0", "shape": 0, "time": ""}\n{"start": "torn')
    (item,) = read_drivers(file)
    assert item == Driven("7.0", 1, 4, item.started, item.ended)
    assert item.ended is not None
    assert item.started <= item.ended
    assert item.started > UPDATED
