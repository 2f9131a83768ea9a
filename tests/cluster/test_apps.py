"""Applications that were not written for gpt-opt on a real Slurm: faults, warnings, short runs, `gptopt cancel`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil
import pytest

from gpt_opt.records.speeds import read_speeds
from gpt_opt.records.state import State, read_state
from gpt_opt.records.step_log import read_metrics
from gpt_opt.records.summary import read_summary
from tests.cluster.bench import Bench, assert_locks_free
from tests.helpers.apps import copied

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

STUBBORN = '''"""Heeds no SIGTERM, and starts a process of its own."""

import signal
import subprocess
import time

import hydra


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "300"])
    time.sleep(300)


if __name__ == "__main__":
    main()
'''


def bench_of(bench: Bench, name: str, base: Mapping[str, Any], grid: Mapping[str, Any]) -> Bench:
    """Returns a workplace in a copy of an application, of which `gptopt init` has found out all."""
    made = replace(bench, folder=copied(name, bench.folder), forks={})
    made.gptopt("init")
    (made.folder / "sweep.json").write_text(json.dumps({"name": "sweep", "base": base, "grid": grid}))
    return made


def verify(bench: Bench, steps: int) -> None:
    """Asserts what must hold after every fault, once all runs are done and no job is left."""
    assert bench.cluster is not None
    for run in bench.sweep().runs:
        paths = run.paths()
        assert read_state(paths).state is State.COMPLETED
        assert read_summary(paths)["step"] == steps
        assert [row["step"] for row in read_metrics(paths.metrics).records] == list(range(1, steps + 1))
        assert len(list(paths.root.parent.glob(f"*{run.run_id}"))) == 1
    assert_locks_free(bench.tmp)
    assert not bench.cluster.processes()


def causes(bench: Bench) -> list[list[str | None]]:
    return [[attempt.cause for attempt in bench.history(run.index).attempts] for run in bench.sweep().runs]


def sleeping(bench: Bench) -> int:
    """Returns how many processes an application of the cluster's jobs has left to sleep."""
    assert bench.cluster is not None
    return sum(process.command.startswith("sleep") for process in bench.cluster.processes())


@pytest.mark.slow(90)
def test_what_watches_a_run_the_application_and_a_slot_are_killed_with_9_and_the_job_is_warned_and_requeued(
    bench: Bench,
) -> None:
    slow = {"logger": "csv", "trainer.max_steps": 100, "trainer.pause_s": 0.15}
    bench = bench_of(bench, "lightning_like", slow, {"model.lr": [0.1, 0.2, 0.3, 0.4, 0.45]})
    bench.submit("--slots", "2")
    pids = [bench.wait_for_step(index, 5) for index in (0, 1)]
    (application,) = psutil.Process(pids[1]).children()
    os.kill(pids[0], signal.SIGKILL)
    application.kill()
    bench.wait_for_step(2, 5)
    slot = bench.history(2).attempts[-1].owner
    assert slot is not None
    os.kill(slot.pid, signal.SIGKILL)
    bench.wait_for_step(3, 5)
    bench.call("scancel", "--batch", "--signal=USR2", bench.jobs()[0])  # as Slurm does before the time limit
    bench.wait("asked to stop", lambda: causes(bench)[3][:1] == ["stopped"])
    bench.wait_for_step(4, 5)
    bench.call("scontrol", "requeue", bench.jobs()[0])
    bench.wait_until_done()
    bench.wait_until_idle()
    verify(bench, 100)
    found = causes(bench)
    assert [item[0] for item in found[:2]] == ["killed", "killed"]
    assert all(item[-1] == "completed" and item.count("completed") == 1 for item in found)
    assert len(bench.jobs()) == 1
    assert sum("goes on from" in file.read_text() for file in bench.sweep().logs.glob("*.err")) >= 4
    assert "5 COMPLETED" in bench.gptopt("status")


def test_short_runs_share_task_lines_and_what_cannot_go_on_is_not_begun_too_late(bench: Bench) -> None:
    bench = bench_of(bench, "plain", {"steps": 3}, {"lr": [0.01 * number for number in range(1, 25)]})
    bench.submit("--slots", "2", "--time-min", "5")
    bench.wait_until_done()
    bench.wait_until_idle()
    verify(bench, 3)
    assert causes(bench) == [["completed"]] * 24
    speeds = read_speeds(bench.sweep().part(0).speeds)
    (speed,) = speeds.workloads.values()
    assert 0 < speed.step_s < 60, "a run is one step"
    lines = [line.split()[3:] for line in bench.sweep().tasks.read_text().splitlines()]
    assert max(map(len, lines)) > 1, "runs share lines"
    long = speed.step_s + speed.start_s
    assert replace(speeds, begins=0.0, ends=1000.0).too_late_for(bench.sweep().runs[0], 0, 1000.0 - 0.9 * long) != ""


def test_an_application_that_heeds_no_signal_is_cancelled(bench: Bench) -> None:
    bench = bench_of(bench, "plain", {}, {"lr": [0.1, 0.2]})
    (bench.folder / "train.py").write_text(STUBBORN)
    settings = bench.folder / "gptopt.toml"
    settings.write_text(settings.read_text().replace("grace_s = ", "grace_s = 2 # "))
    bench.submit("--slots", "2")
    bench.wait("both run", lambda: [len(item) for item in causes(bench)] == [1, 1])
    bench.wait("they sleep", lambda: sleeping(bench) == 2)
    bench.gptopt("cancel", "sweep", "--yes")
    bench.wait_until_idle()
    assert causes(bench) == [["cancelled"], ["cancelled"]]
    assert not bench.results()
