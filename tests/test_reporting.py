"""The line of a training program: what it writes within a run, and that it does nothing without one."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt_opt
from gpt_opt.records.step_log import read_metrics
from gpt_opt.reporting import RUN_DIR, STOP_FILE


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory that the environment names."""
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stop"))
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def rows(run: Path) -> list[dict[str, Any]]:
    found = read_metrics(run / "metrics.jsonl")
    assert not found.left_out
    return [{name: value for name, value in row.items() if name != "time"} for row in found.records]


def test_outside_a_sweep_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_DIR, raising=False)
    monkeypatch.delenv(STOP_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    gpt_opt.report(step=1, loss=0.5)
    assert not gpt_opt.should_stop()
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert gpt_opt.checkpoint_dir() == Path("checkpoints")
    assert Path("checkpoints").is_dir()


def test_rows_are_those_of_metrics_jsonl(run: Path) -> None:
    gpt_opt.report(step=np.int64(10), loss=np.float32(0.5), count=3, **{"eval/loss": math.nan, "norm": math.inf})
    gpt_opt.report(step=20, total_steps=100, loss=0.25)
    assert rows(run) == [
        {"step": 10, "loss": 0.5, "count": 3, "eval/loss": None, "norm": None},
        {"step": 20, "total_steps": 100, "loss": 0.25},
    ]
    assert all(row["time"] > 1.7e9 for row in read_metrics(run / "metrics.jsonl").records)
    assert gpt_opt.checkpoint_dir() == run / "checkpoints"


def test_without_a_step_rows_are_counted(run: Path) -> None:
    for value in (3.0, 2.0):
        gpt_opt.report(loss=value)
    gpt_opt.report(step=10, loss=1.0)
    gpt_opt.report(loss=0.5)
    assert [row["step"] for row in rows(run)] == [0, 1, 10, 11]


def test_a_further_attempt_counts_on_behind_a_torn_line(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 41, "loss": 1.0}\n{"step": 42, "lo')
    gpt_opt.report(loss=0.5)
    found = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in found.records] == [41, 42]
    assert (len(found.foreign), found.torn) == (1, False)


@pytest.mark.parametrize(
    ("ranks", "writes"),
    [
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": ""}, True),
    ],
)
def test_the_first_process_of_a_training_writes(
    run: Path, monkeypatch: pytest.MonkeyPatch, ranks: dict[str, str], writes: bool
) -> None:
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    gpt_opt.report(step=1, loss=0.5)
    assert (run / "metrics.jsonl").exists() == writes


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"step": 1, "loss": "low"}, TypeError, "the metric loss must be one number, but is 'low'"),
        ({"step": 1, "loss": np.zeros(2)}, TypeError, "the metric loss must be one number"),
        ({"step": 1.5}, TypeError, "step must be an integer"),
        ({"step": 1, "total_steps": "10"}, TypeError, "total_steps must be an integer"),
        ({"step": -1}, ValueError, "from 0, but is -1"),
        ({"step": 1, "time": 3.0}, ValueError, "for example time_s"),
    ],
)
def test_mistakes_are_told_with_and_without_a_sweep(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    inside: bool,
    values: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    if not inside:
        monkeypatch.delenv(RUN_DIR)
    with pytest.raises(error, match=message):
        gpt_opt.report(**values)
    assert not (run / "metrics.jsonl").exists()


PROGRAM = """
import sys, time
import gpt_opt
gpt_opt.should_stop()
gpt_opt.report(step=1, loss=0.5)
print("begun", flush=True)
while not gpt_opt.should_stop():
    time.sleep(0.01)
gpt_opt.report(step=2, loss=0.25)
sys.exit(gpt_opt.reporting.STOP_EXIT_CODE)
"""


@pytest.mark.parametrize("way", ["signal", "file"])
def test_a_program_that_is_to_stop_leaves_by_itself(run: Path, way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        if way == "signal":
            os.kill(program.pid, signal.SIGTERM)
        else:
            (run / "stop").touch()
        assert program.wait(60) == 143
    assert [row["step"] for row in rows(run)] == [1, 2]


def test_a_handler_of_the_program_stays(run: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert not gpt_opt.should_stop()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
