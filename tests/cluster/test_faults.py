"""Faults on a real Slurm: after each, every run is COMPLETED once, nothing done was started again, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest

from gpt_opt.dispatch import slurm
from tests.cluster.bench import Bench
from tests.cluster.cluster import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_run_that_raises_fails_once_and_the_user_retries(bench: Bench) -> None:
    bench.write([70, 71, 72], steps=8)
    (bench.folder / "break-71").touch()
    bench.submit("--slots", "3")
    job = bench.jobs()[0]
    assert bench.cluster is not None
    assert bench.cluster.wait_job(job, timeout_s=120) == "FAILED"
    assert bench.starts() == [1, 1, 1]
    assert bench.history(1).exhausted() == "exception"
    before = bench.results()
    assert len(before) == 2
    told = bench.gptopt("status", expect=1)
    assert "broken on purpose" in told
    assert "not started again" in bench.gptopt("submit", "sweep.json")
    (bench.folder / "break-71").unlink()
    bench.gptopt("retry", "sweep")
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=8)
    assert bench.starts() == [1, 2, 1]
    assert before.items() <= bench.results().items()


def test_a_run_killed_with_9_starts_again_by_itself(bench: Bench) -> None:
    bench.write([70, 71], pause_s=0.05)
    bench.submit("--slots", "2")
    os.kill(bench.wait_for_step(), signal.SIGKILL)
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify()
    assert bench.starts() == [2, 1]
    assert bench.history(0).attempts[0].cause == "killed"


@pytest.mark.slow(50)
def test_the_driver_killed_with_9_with_term_and_the_job_cancelled(bench: Bench) -> None:
    bench.write([70, 71], steps=60, pause_s=0.25)
    for fault in ("SIGKILL", "SIGTERM", "scancel"):
        bench.submit("--slots", "2")
        bench.wait("both at work", lambda: min(bench.step(0), bench.step(1)) > 0)
        if fault == "scancel":
            bench.call("scancel", bench.jobs()[-1])
        else:
            os.kill(bench.driver_pid(), signal.Signals[fault])
        bench.wait_until_idle()
        assert not bench.results(), "the fault was to come in mid-run"
    bench.submit("--slots", "2")
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=60)
    assert bench.starts() == [4, 4]
    assert len(bench.jobs()) == 4


@pytest.mark.slow(100)
def test_the_time_limit_warns_checkpoints_requeues_and_resumes(bench: Bench) -> None:
    bench.write([70, 71], steps=120, pause_s=0.6)
    # Slurm warns up to half a minute early: 30 to 60 s after the start here, when the runs still have work to do.
    bench.submit("--slots", "2", "--time-min", "2", "--sbatch=--signal=B:USR2@60")
    bench.wait_until_done(timeout_s=500)
    bench.wait_until_idle()
    bench.verify(steps=120)
    assert len(bench.jobs()) == 1
    assert max(bench.starts()) >= 2
    causes = {item.cause for index in (0, 1) for item in bench.history(index).attempts[:-1]}
    assert causes == {"stopped"}, "every run was asked to checkpoint, none was cut off"


def test_the_warm_process_a_run_and_a_slot_are_killed_with_9_and_the_job_is_requeued(bench: Bench) -> None:
    bench.write([70, 71, 72, 73], pause_s=0.05)
    bench.submit("--slots", "2")
    pids = [bench.wait_for_step(index) for index in (0, 1)]
    servers = [psutil.Process(pid).parent() for pid in pids]
    assert servers[0] is not None
    assert servers[1] is not None
    assert servers[0].pid != servers[1].pid, "each slot has its own"
    servers[0].kill()
    os.kill(pids[1], signal.SIGKILL)
    bench.wait_for_step(2)
    slot = bench.history(2).attempts[-1].owner
    assert slot is not None
    os.kill(slot.pid, signal.SIGKILL)
    bench.wait_for_step(3)
    bench.call("scontrol", "requeue", bench.jobs()[0])
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify()
    causes = [[attempt.cause for attempt in bench.history(index).attempts] for index in range(4)]
    assert causes[0][:1] == ["stopped"], "with a checkpoint"
    assert causes[1][:1] == ["killed"]
    assert all(last[-1] == "completed" and last.count("completed") == 1 for last in causes)
    assert min(bench.starts()) >= 2
    assert not [item for item in servers if item is not None and item.is_running()]


def test_requeue_in_mid_sweep(bench: Bench) -> None:
    bench.write([70, 71, 72, 73], pause_s=0.05)
    bench.submit("--slots", "2")
    bench.wait("two done", lambda: len(bench.results()) >= 2)
    before = bench.results()
    bench.wait_for_step(2 if bench.sweep().runs[2].run_id not in before else 3)
    bench.call("scontrol", "requeue", bench.jobs()[0])
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify()
    assert before.items() <= bench.results().items()
    assert bench.starts()[:2] == [1, 1]
    assert len(bench.jobs()) == 1


@pytest.mark.slow(70)
def test_a_node_dies_and_its_runs_end_on_other_nodes(bench: Bench) -> None:
    bench.write([70, 71, 72, 73], steps=80, pause_s=0.15)
    with bench.held():
        bench.submit("--slots", "4")
        bench.wait_for_runs_at_once(4)
        node = next(attempt.node for attempt in bench.at_work() if attempt.node != "n1")
    bench.wait_for_step(0)
    assert node is not None
    assert bench.cluster is not None
    bench.cluster.kill_node(node)
    bench.wait_until_done(timeout_s=300)
    bench.wait_until_idle()
    bench.verify(steps=80)
    last = [bench.history(index).attempts[-1].node for index in range(4)]
    lost = [index for index in range(4) if bench.history(index).attempts[0].node == node]
    assert lost
    assert all(last[index] != node for index in lost)


def test_two_submits_at_once_end_in_one(bench: Bench) -> None:
    bench.write([70, 71], steps=20)
    command = ["gptopt", "submit", "sweep.json", "--slots", "2"]
    twice = [
        subprocess.Popen(command, cwd=bench.folder, env=bench.env, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [process.communicate(timeout=60)[0] for process in twice]
    assert [process.returncode for process in twice] == [0, 0]
    assert sorted("submitted job" in text for text in told) == [False, True]
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=20)
    assert bench.starts() == [1, 1]
    assert len(bench.jobs()) == 1


def test_the_script_submitted_twice_runs_everything_once(bench: Bench) -> None:
    bench.write([70, 71], steps=20)
    script = str(ROOT / "slurm_scripts" / "submit.sh")
    jobs = [bench.call("sbatch", "--parsable", "-n", "2", script, "sweep.json").strip() for _ in range(2)]
    assert bench.cluster is not None
    bench.wait("sweep directory", lambda: (bench.folder / "sweeps" / "sweep" / "1" / "tasks").exists())
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=20)
    assert bench.starts() == [1, 1]
    assert "COMPLETED" in {bench.cluster.wait_job(job) for job in jobs}


def test_a_point_inserted_at_the_top(bench: Bench) -> None:
    bench.write([70, 71], steps=8)
    bench.submit("--slots", "2")
    bench.wait_until_done()
    bench.wait_until_idle()
    before = bench.results()
    bench.write([69, 70, 71], steps=8)
    bench.submit("--slots", "2")
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=8)
    assert bench.sweep().root.name == "2"
    assert bench.starts() == [1, 0, 0]
    assert before.items() <= bench.results().items()


def test_submit_from_inside_a_job_starts_clean(bench: Bench) -> None:
    bench.write([70], steps=8)
    inner = f"cd {bench.folder} && gptopt submit sweep.json --slots 1"
    bench.call("sbatch", "--wait", "-n", "1", "--cpus-per-task", "2", "-o", "outer.out", "--wrap", inner)
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps=8)
    kept = slurm.outside_job({"SLURM_CPU_BIND": "quiet,mask", "SLURM_JOB_ID": "1", "HOME": "/h", "SLURM_CONF": "/c"})
    assert kept == {"HOME": "/h", "SLURM_CONF": "/c"}


RUNS = int(os.environ.get("GPTOPT_TEST_RUNS", "16"))
"""Of the long sweep below; 40 take about four minutes."""


@pytest.mark.slow(80)
def test_many_runs_with_a_node_killed_and_a_requeue(bench: Bench) -> None:
    bench.write(range(40, 40 + RUNS), steps=20, pause_s=0.05)
    bench.submit("--slots", "8")
    bench.wait("some done", lambda: len(bench.results()) >= RUNS // 5, 180)
    assert bench.cluster is not None
    cluster = bench.cluster
    # A node that has done all of its runs before anybody sees it fail would leave none to start again.
    with bench.held():
        bench.wait("a run on n4", lambda: "n4" in {attempt.node for attempt in bench.at_work()}, 60)
        cluster.kill_node("n4")
        # Eight slots need all four nodes, so the job waits for this one; with three it would go on at once.
        bench.wait("node failure noticed", lambda: "DOWN" in cluster.node_state("n4"), 120)
    cluster.restore_node("n4")
    bench.wait("requeued after the node failed", lambda: any(n > 1 for n in bench.starts()), 120)
    bench.wait("more done", lambda: len(bench.results()) >= RUNS // 2, 180)
    before = bench.results()
    bench.call("scontrol", "requeue", bench.jobs()[0])
    bench.wait_until_done(timeout_s=400)
    bench.wait_until_idle()
    bench.verify(steps=20)
    assert before.items() <= bench.results().items()
    assert len(bench.results()) == RUNS
    assert f"{RUNS} COMPLETED" in bench.gptopt("status")
