"""Stages on a real Slurm: each run starts when its own parent is COMPLETED, whatever happens to jobs and nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.records.provenance import recorded_inputs
from gpt_opt.records.state import State, read_state
from tests.cluster.bench import Bench

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def write(bench: Bench, stages: Sequence[dict[str, Any]], steps: int, pause_s: float = 0.0) -> None:
    """Writes sweep.json with stages over the base of `Bench.write`."""
    file = bench.write([70], steps=steps, pause_s=pause_s)
    spec = json.loads(file.read_text())
    del spec["grid"], spec["base"]["loss.beta"]
    file.write_text(json.dumps({**spec, "stages": list(stages)}))


SFT = {"name": "sft", "base": {"loss": "sft"}, "grid": {"data.dataset.max_samples": [70, 71]}}
DPO = {"name": "dpo", "base": {"loss": "dpo", "data.dataset.max_samples": 72}, "grid": {"loss.beta": [0.1, 0.3]}}


def verify_order(bench: Bench) -> None:
    """Asserts that no run started before its parent had a result, which is the one that it started from."""
    sweep = bench.sweep()
    for run in sweep.runs:
        if run.parent is not None:
            parent = sweep.runs[run.parent].paths()
            first = bench.history(run.index).attempts[0].started
            done = read_state(parent).updated
            assert done is not None
            assert done <= first, run.name
            started = recorded_inputs(run.paths())["model.archive"]
            assert started["run_id"] == sweep.runs[run.parent].run_id
            assert started["path"].startswith(str(parent.checkpoints))


@pytest.mark.slow(60)
def test_a_pipeline_loses_a_node_in_one_stage_and_is_requeued_in_the_next(bench: Bench) -> None:
    write(bench, [SFT, DPO], steps=300, pause_s=0.02)
    bench.submit("--slots", "2")
    status = bench.gptopt("status", expect=3)
    assert "└ dpo  [....................] 0/4, 4 PENDING; from sft" in status
    bench.wait_for_step(0)
    bench.wait_for_step(1)
    assert bench.cluster is not None
    nodes = [bench.history(index).attempts[0].node for index in (0, 1)]
    if nodes[1] != "n1":
        bench.cluster.kill_node(nodes[1])
    bench.wait("a child at work", lambda: any(bench.step(index) > 100 for index in range(2, 6)), timeout_s=300)
    assert "sft    [####" in bench.gptopt("status", expect=3)
    bench.call("scontrol", "requeue", bench.jobs()[0])
    bench.wait_until_done(timeout_s=400)
    bench.wait_until_idle()
    bench.verify(steps=300)
    verify_order(bench)
    assert len(bench.jobs()) == 1
    assert "└ dpo  [####################] 4/4; from sft" in bench.gptopt("status")
    assert "nothing to submit" in bench.gptopt("submit", "sweep.json", "--slots", "2")


def test_jobs_of_submitit_wait_for_those_of_their_parents(bench: Bench) -> None:
    write(bench, [SFT, DPO], steps=40)
    (bench.folder / "break-71").touch()
    bench.gptopt("submit", "sweep.json", "--backend", "submitit", "--time-min", "20")
    jobs = bench.sweep().submission().jobs
    assert [job.runs for job in jobs] == [(0,), (1,), (2,), (3,), (4,), (5,)]
    bench.wait("the end of what can run", lambda: len(classify_runs(bench.sweep()).done) == 3)
    bench.wait_until_idle()
    told = bench.gptopt("status", expect=1)
    assert told.count("BLOCKED by sft/1") == 2
    assert bench.starts() == [1, 1, 1, 1, 0, 0]
    (bench.folder / "break-71").unlink()
    bench.gptopt("retry", "sweep", "sft/1")
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=40)
    verify_order(bench)
    assert bench.starts() == [1, 2, 1, 1, 1, 1]


def test_a_stage_that_needs_something_else_gets_an_allocation_when_it_is_ready(bench: Bench) -> None:
    stages = [
        {**SFT, "resources": {"gpus_per_run": 1}},
        {**DPO, "resources": {"gpus_per_run": 2}, "from": {"best": "eval/loss", "goal": "minimize"}},
    ]
    write(bench, stages, steps=40)
    bench.gptopt("submit", "sweep.json")
    assert [job.shape for job in bench.sweep().submission().jobs] == [0]
    bench.wait("all that was chosen", lambda: len(classify_runs(bench.sweep()).done) == 4)
    bench.wait_until_idle()
    assert [job.shape for job in bench.sweep().submission().jobs] == [0, 1]
    chosen = bench.sweep().chosen()["dpo"]
    started = [run for run in bench.sweep().runs if run.parent is not None and bench.history(run.index).attempts]
    assert {run.parent for run in started} == {chosen}
    assert {read_state(run.paths()).state for run in started} == {State.COMPLETED}
    assert [len(bench.history(run.index).attempts[0].gpus) for run in started] == [2, 2]
