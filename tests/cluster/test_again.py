"""The second word of a user on a real Slurm: retry some, cancel, submit again, go on after a driver that vanished."""

from __future__ import annotations

import json
import os
import time

import pytest

from gpt_opt.dispatch.driver import due, is_driven
from gpt_opt.records.sweep_dir import Sweep
from tests.cluster.bench import Bench

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_driver_that_vanished_with_its_node_is_outwaited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim is of another machine, so that only Slurm knows that its job is over."""
    monkeypatch.setenv("SLURM_CONF", bench.env["SLURM_CONF"])  # this process asks Slurm too
    bench.write([70], steps=40)
    bench.submit("--slots", "1", "--sbatch=--hold")
    (job,) = bench.jobs()
    claims = bench.sweep().claims
    claims.mkdir()
    file = claims / "0001.json"
    owner = {"host": "gone", "machine": "another", "pid": 1, "pid_start": 1, "slurm": [job, 0], "claimed": "then"}
    file.write_text(json.dumps(owner))
    assert is_driven(bench.sweep()), "its job still waits"
    bench.call("scancel", job)
    bench.wait_until_idle()
    assert not is_driven(bench.sweep())
    silent = time.time() - 172
    os.utime(file, (silent, silent))
    assert "submitted job" in bench.gptopt("submit", "sweep.json", "--slots", "1")
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=40)


def test_a_job_keeps_the_resources_it_was_given(bench: Bench) -> None:
    bench.write([70, 71], steps=40)
    bench.submit("--slots", "1", "--sbatch=--hold")
    before = bench.sweep().submission()
    told = bench.gptopt("submit", "sweep.json", "--slots", "1", "--gpus-per-run", "2")
    assert "goes on with the resources it has" in told
    assert bench.sweep().submission() == before
    bench.gptopt("cancel", "sweep", "--yes")
    bench.wait_until_idle()
    bench.gptopt("submit", "sweep.json", "--slots", "1", "--gpus-per-run", "2")
    assert bench.sweep().submission().resources == {"gpus_per_run": 2}


def test_cancel_reaches_every_submission_of_a_run_and_the_old_grid_is_found_again(bench: Bench) -> None:
    bench.write([70, 71], steps=40)
    bench.submit("--slots", "1", "--sbatch=--hold")
    first = bench.sweep()
    bench.write([70, 71, 72], steps=40)
    bench.submit("--slots", "1", "--sbatch=--hold")
    assert bench.sweep().root.name == "2"
    bench.write([70, 71], steps=40)
    told = bench.gptopt("submit", "sweep.json", "--slots", "1", "--sbatch=--hold")
    assert "sweep sweep/1" in told
    assert "at work already" in told
    bench.gptopt("cancel", "sweep/2", "--yes")
    assert {cause for sweep in (first, Sweep(first.root.parent / "2")) for _, cause in due(sweep).left} == {"cancelled"}
    assert not due(first).runnable


def test_retry_of_the_runs_with_a_value(bench: Bench) -> None:
    bench.write([70, 71, 72], steps=40)
    for value in (70, 71, 72):
        (bench.folder / f"break-{value}").touch()
    bench.submit("--slots", "3")
    bench.wait("all failed", lambda: len(due(bench.sweep()).left) == 3)
    bench.wait_until_idle()
    told = bench.gptopt("retry", "sweep", "--where", "max_samples=99", expect=2)
    assert "fits none; there are 3 FAILED" in told
    for value in (70, 71, 72):
        (bench.folder / f"break-{value}").unlink()
    bench.gptopt("retry", "sweep", "--where", "data.dataset.max_samples=71")
    bench.wait("one done", lambda: len(due(bench.sweep()).done) == 1)
    bench.wait_until_idle()
    assert bench.starts() == [1, 2, 1]
    assert "gptopt retry sweep/1 starts failed ones again" in bench.gptopt("submit", "sweep.json")
