"""What comes after a first submit on a real Slurm: retry, cancel, submit again, go on after a driver that vanished."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from gpt_opt.dispatch.classify import BlockedBy
from gpt_opt.dispatch.driver_claim import is_driven
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.records.claim import STALE_AFTER_S
from gpt_opt.records.sweep_dir import Sweep
from tests.cluster.bench import Bench

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def vanished_driver(bench: Bench) -> Path:
    """Submits a sweep of one run whose driver is gone with its node, and returns the driver's claim.

    The claim is of another machine, so that only Slurm knows that its job is over.
    """
    bench.write([70], steps=8)
    bench.submit("--slots", "1", "--sbatch=--hold")
    (job,) = bench.jobs()
    claims = bench.sweep().driver.claims
    claims.mkdir()
    file = claims / "0001.json"
    owner = {"host": "gone", "machine": "another", "pid": 1, "pid_start": 1, "slurm": [job, 0], "claimed": "then"}
    file.write_text(json.dumps(owner))
    assert is_driven(bench.sweep()), "its job still waits"
    bench.call("scancel", job)
    bench.wait_until_idle()
    assert not is_driven(bench.sweep())
    return file


def set_silence(claim: Path, silent_s: float) -> None:
    then = time.time() - silent_s
    os.utime(claim, (then, then))


def test_a_driver_that_vanished_with_its_node_is_outwaited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", bench.env["SLURM_CONF"])  # this process asks Slurm too
    set_silence(vanished_driver(bench), 172)
    assert "submitted job" in bench.gptopt("submit", "sweep.json", "--slots", "1")
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=8)


def test_a_driver_that_waits_for_a_vanished_one_answers_the_warning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", bench.env["SLURM_CONF"])
    claim = vanished_driver(bench)
    set_silence(claim, 0)
    bench.gptopt("submit", "sweep.json", "--slots", "1")
    job = bench.jobs()[-1]
    log = bench.sweep().logs / f"driver-{job}.out"
    bench.wait("it waits", lambda: log.exists() and "waiting: the job of that driver" in log.read_text())
    bench.call("scancel", "--batch", "--signal=USR2", job)  # as Slurm does before the time limit
    bench.wait("a requeue", lambda: "1 run to go on with after a requeue" in log.read_text(), 20)
    set_silence(claim, STALE_AFTER_S + 1)
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=8)
    assert [item.session for item in bench.history(0).attempts] == [f"{job}.1"]


def test_a_job_keeps_the_resources_it_was_given(bench: Bench) -> None:
    bench.write([70, 71], steps=8)
    bench.submit("--slots", "1", "--sbatch=--hold")
    before = bench.sweep().submission()
    told = bench.gptopt("submit", "sweep.json", "--slots", "1", "--gpus-per-run", "2")
    assert "goes on with the resources it has" in told
    assert bench.sweep().submission() == before
    bench.gptopt("cancel", "sweep", "--yes")
    bench.wait_until_idle()
    bench.gptopt("submit", "sweep.json", "--slots", "1", "--gpus-per-run", "2")
    assert bench.sweep().needs().resources == {"gpus_per_run": 2}


def test_cancel_reaches_every_submission_of_a_run_and_the_old_grid_is_found_again(bench: Bench) -> None:
    bench.write([70, 71], steps=8)
    bench.submit("--slots", "1", "--sbatch=--hold")
    first = bench.sweep()
    bench.write([70, 71, 72], steps=8)
    bench.submit("--slots", "1", "--sbatch=--hold")
    assert bench.sweep().root.name == "2"
    bench.write([70, 71], steps=8)
    told = bench.gptopt("submit", "sweep.json", "--slots", "1", "--sbatch=--hold")
    assert "sweep sweep/1" in told
    assert "submitted already" in told
    bench.gptopt("cancel", "sweep/2", "--yes")
    for sweep in (first, Sweep(first.root.parent / "2")):
        assert {item.blocked_by for item in classify_runs(sweep).items.values()} == {BlockedBy.CANCEL}


def test_retry_of_the_runs_with_a_value(bench: Bench) -> None:
    bench.write([70, 71, 72], steps=8)
    for value in (70, 71, 72):
        (bench.folder / f"break-{value}").touch()
    bench.submit("--slots", "3")
    bench.wait("all failed", lambda: len(classify_runs(bench.sweep()).needs_retry) == 3)
    bench.wait_until_idle()
    told = bench.gptopt("retry", "sweep", "--where", "max_samples=99", expect=2)
    assert "their values of max_samples: 70, 71, 72" in told
    for value in (70, 71, 72):
        (bench.folder / f"break-{value}").unlink()
    bench.gptopt("retry", "sweep", "--where", "data.dataset.max_samples=71")
    bench.wait("one done", lambda: len(classify_runs(bench.sweep()).done) == 1)
    bench.wait_until_idle()
    assert bench.starts() == [1, 2, 1]
    assert "gptopt retry sweep/1 starts failed runs again" in bench.gptopt("submit", "sweep.json")
