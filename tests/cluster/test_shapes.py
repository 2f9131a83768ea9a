"""One sweep, runs that need different things, on a real Slurm: an allocation for each shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.records.sweep_dir import Sweep
from tests.cluster.bench import BUILDER, Bench
from tests.cluster.cluster import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SCRIPT = str(ROOT / "slurm_scripts" / "submit.sh")
HUNGRY = (
    BUILDER.replace("def build(", "def read(")
    + '''
import os
import resource

def build(**options):
    """Needs more than 600 MB for the run of 71: with less, its memory ends."""
    if options["max_samples"] == 71 and int(os.environ["SLURM_MEM_PER_CPU"]) < 600:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), resource.RLIM_INFINITY))
        eaten = [b"x" * (1 << 24) for _ in range(1 << 10)]
    return read(**options)
'''
)


def shaped(values: dict[str, list[Any]]) -> dict[str, Any]:
    """Returns the sections of a sweep file whose points differ in samples and in what they need."""
    return {"grid": {"seed": [0]}, "zip": values}


def waiting_for_retry(sweep: Sweep) -> list[str | None]:
    runs = classify_runs(sweep)
    return [runs.items[run].cause for run in runs.needs_retry]


def test_each_run_gets_what_it_asked_for(bench: Bench) -> None:
    cluster = bench.cluster
    assert cluster is not None
    asked = {"data.dataset.max_samples": [70, 71, 72], "resources.gpus_per_run": [1, 2, 1]}
    bench.write([], steps=8, **shaped({**asked, "resources.time_min": [20, 10, 20]}))
    told = bench.call("sbatch", "--wait", "-n1", "-o", "job.out", SCRIPT, "sweep.json", expect=2)
    assert "must be the same for all runs of one allocation" in (bench.folder / "job.out").read_text(), told
    assert "gptopt submit sweep.json asks for an allocation for each" in (bench.folder / "job.out").read_text()
    assert not (bench.folder / "sweeps").exists(), "nothing was started"

    bench.gptopt("submit", "sweep.json")
    jobs = bench.sweep().submission().jobs
    assert [job.shape for job in jobs] == [0, 1]
    shown = [cluster.run("scontrol", "show", "job", job.id) for job in jobs]
    assert ["gres:gpu:1" in shown[0], "gres:gpu:2" in shown[1]] == [True, True]
    assert ["NumTasks=2" in shown[0], "NumTasks=1" in shown[1]] == [True, True]
    assert ["TimeLimit=00:20:00" in shown[0], "TimeLimit=00:10:00" in shown[1]] == [True, True]
    status = bench.gptopt("status", expect=None)
    assert "shape 1: 1 run, " in status
    assert f"{jobs[1].id} (shape 1)" in status
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=8)
    assert bench.starts() == [1, 1, 1]
    assert [len(bench.history(index).attempts[0].gpus) for index in range(3)] == [1, 2, 1]
    sessions = [bench.history(index).attempts[0].session for index in range(3)]
    assert sessions == [f"{jobs[0].id}.0", f"{jobs[1].id}.0", f"{jobs[0].id}.0"]
    assert [cluster.wait_job(job.id) for job in jobs] == ["COMPLETED", "COMPLETED"]
    assert "nothing to submit" in bench.gptopt("submit", "sweep.json")


@pytest.mark.slow(50)
def test_one_shape_gets_more_memory_while_the_other_works_and_is_requeued(bench: Bench) -> None:
    cluster = bench.cluster
    assert cluster is not None
    steps = 80
    values = {"data.dataset.max_samples": [70, 71], "resources.gpus_per_run": [1, 0]}
    bench.write([], steps=steps, pause_s=0.25, **shaped({**values, "resources.mem_gb": [0.4, 0.5]}))
    (bench.folder / "faulty.py").write_text(HUNGRY)
    bench.gptopt("submit", "sweep.json")
    first, second = bench.jobs()
    bench.wait("out of memory", lambda: waiting_for_retry(bench.sweep()) == ["out_of_memory"])
    cluster.wait_job(second)
    bench.wait_for_step(0)
    (bench.folder / "hold").touch()
    assert f"submitted already: job {first}" in bench.gptopt("submit", "sweep.json")
    assert bench.jobs() == [first, second], "without more memory it is not started again"

    content = json.loads((bench.folder / "sweep.json").read_text())
    content["zip"]["resources.mem_gb"] = [0.4, 0.75]
    (bench.folder / "sweep.json").write_text(json.dumps(content))
    bench.gptopt("submit", "sweep.json")
    *_, third = bench.jobs()
    assert len(bench.jobs()) == 3
    assert "MinMemoryCPU=768M" in cluster.run("scontrol", "show", "job", third)
    (bench.folder / "hold").unlink()
    cluster.run("scontrol", "requeue", first)
    bench.wait_until_done(timeout_s=240)
    bench.wait_until_idle()
    bench.verify(steps)
    attempts = [bench.history(index).attempts for index in (0, 1)]
    assert [item.session for item in attempts[0]] == [f"{first}.0", f"{first}.1"]
    assert [item.session for item in attempts[1]] == [f"{second}.0", f"{third}.0"]
    assert [item.mem_gb for item in attempts[1]] == [0.5, 0.75]
    assert bench.sweep().runs[1].overrides[-1] == "resources.mem_gb=0.75", "the plan has what was asked for last"
