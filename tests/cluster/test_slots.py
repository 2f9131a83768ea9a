"""What runs get from a slot on a real Slurm: GPUs of their own, shared ones, several, several nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import psutil
import pytest

from gpt_opt.dispatch.slot.gpus import own_folder
from gpt_opt.records.attempts import Attempt
from gpt_opt.records.state import State, read_state
from tests.cluster.bench import Bench, assert_locks_free
from tests.cluster.cluster import ROOT, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SCRIPT = str(ROOT / "slurm_scripts" / "submit.sh")


@dataclass(frozen=True)
class Placed:
    """Where a run was, by the record of its slot (`attempt`) and by its own."""

    attempt: Attempt
    gpus: list[str]
    procid: str

    def meets(self, other: Placed) -> bool:
        """Says whether both were at work on one node at the same time."""
        assert self.attempt.ended is not None
        assert other.attempt.ended is not None
        together = self.attempt.started < other.attempt.ended and other.attempt.started < self.attempt.ended
        return together and self.attempt.node == other.attempt.node


def placed(bench: Bench) -> list[Placed]:
    """Returns where each run was, after checking that all its records say the same."""
    found = []
    for run in bench.sweep().runs:
        (attempt,) = bench.history(run.index).attempts
        state, provenance = read_state(run.paths()), json.loads(run.paths().provenance.read_text())
        assert state.gpus == list(attempt.gpus)
        assert provenance["cuda_visible_devices"] == ",".join(attempt.gpus)
        ids = provenance["slurm"]
        assert ids == state.slurm
        assert ids["slurmd_nodename"] == attempt.node
        assert attempt.session == f"{ids['slurm_job_id']}.0"
        assert ids["slurm_job_id"] in bench.jobs()
        found.append(Placed(attempt, state.gpus, ids["slurm_procid"]))
    return found


def meetings(runs: list[Placed]) -> Iterator[tuple[Placed, Placed]]:
    """Yields the pairs of runs that were on one node at once."""
    yield from ((one, other) for one, other in combinations(runs, 2) if one.meets(other))


def finish(bench: Bench, steps: int) -> None:
    bench.wait_until_done()
    bench.wait_until_idle()
    bench.verify(steps)


@pytest.mark.parametrize(
    ("slots", "nodes", "runs"),
    [pytest.param(4, 2, 4, id="even"), pytest.param(3, 2, 4, id="uneven"), pytest.param(5, 3, 5, id="uneven-three")],
)
def test_a_gpu_a_task_gives_every_run_its_own(bench: Bench, slots: int, nodes: int, runs: int) -> None:
    bench.write(range(70, 70 + runs), steps=12, pause_s=0.01)
    with bench.held():
        bench.submit("--slots", str(slots), f"--sbatch=--nodes={nodes}")
        bench.wait_for_runs_at_once(slots)
    finish(bench, 12)
    found = placed(bench)
    assert len({item.attempt.node for item in found}) == nodes
    pairs = list(meetings(found))
    assert pairs
    for one, other in pairs:
        assert len(one.gpus) == 1
        assert not set(one.gpus) & set(other.gpus)
        assert one.procid != other.procid


@pytest.mark.parametrize(
    "more", [pytest.param([], id="narrowed-by-slurm"), pytest.param(["--gpus-per-task=0"], id="all-visible")]
)
def test_a_whole_node_gives_every_run_its_own(bench: Bench, more: list[str]) -> None:
    bench.write([70, 71, 72, 73], steps=12, pause_s=0.01)
    whole = ["-N", "2", "-n", "4", "--gres=gpu:2", "--ntasks-per-node=2"]
    with bench.held():
        bench.call("sbatch", *whole, *more, SCRIPT, "sweep.json")
        bench.wait("sweep directory", lambda: (bench.folder / "sweeps" / "sweep" / "1" / "tasks").exists())
        bench.wait_for_runs_at_once(4)
    finish(bench, 12)
    found = placed(bench)
    pairs = list(meetings(found))
    assert len(pairs) == 2
    for one, other in pairs:
        assert {*one.gpus, *other.gpus} == {"0", "1"}


def test_two_runs_at_a_time_share_a_gpu(bench: Bench) -> None:
    bench.write([70, 71, 72, 73], steps=12, pause_s=0.01)
    on_one_node = ["--sbatch=--nodes=1", "--sbatch=--cpus-per-task=1"]
    with bench.held():
        bench.submit("--slots", "4", "--runs-per-gpu", "2", *on_one_node)
        bench.wait_for_runs_at_once(4)
    finish(bench, 12)
    found = placed(bench)
    assert len(list(meetings(found))) == 6
    assert sorted(item.gpus for item in found) == [["0"], ["0"], ["1"], ["1"]]


def test_a_gpu_that_another_process_holds_is_not_used(bench: Bench) -> None:
    bench.write([70], steps=8)
    bench.submit("--slots", "1", "--sbatch=--hold")
    bench.call("scancel", *bench.jobs())
    locks = bench.tmp / own_folder("gpus").name
    locks.mkdir(mode=0o700, exist_ok=True)
    by_hand = ["srun", "-w", "n1", "-n", "1", "--gpus=1", "gptopt", "exec", str(bench.sweep().root), "0"]
    with ExitStack() as stack:
        holder = stack.enter_context(
            subprocess.Popen(["flock", str(locks / "n1-0"), "-c", "read _"], stdin=subprocess.PIPE)
        )
        bench.wait("a held lock", lambda: not is_free(locks / "n1-0"))
        told = bench.call(*by_hand, expect=1)
        assert holder.stdin is not None
        holder.stdin.close()
    assert "held are GPU 0" in told
    assert "two slots were given the same GPU, or a run outlived its slot" in told
    (attempt,) = bench.history(0).attempts
    assert attempt.cause == "gpu_busy"
    assert not bench.results()
    bench.call(*by_hand)
    assert [item.cause for item in bench.history(0).attempts] == ["gpu_busy", "completed"]
    bench.wait_until_idle()
    bench.verify(steps=8)


def is_free(lock: Path) -> bool:
    return subprocess.run(["flock", "-n", str(lock), "true"], check=False).returncode == 0


def workers(cluster: Cluster) -> dict[str, int]:
    """Returns the processes that torchrun started, by rank."""
    found = [item.pid for item in cluster.processes() if "LOCAL_RANK" in psutil.Process(item.pid).environ()]
    return {psutil.Process(pid).environ()["LOCAL_RANK"]: pid for pid in found}


@pytest.mark.new_torchrun  # whose children are looked for
def test_two_gpus_a_run_survive_a_killed_worker_and_a_cancel(bench: Bench) -> None:
    bench.write([70], steps=80, pause_s=0.15)
    bench.submit("--slots", "1", "--gpus-per-run", "2")
    first = bench.wait_for_step(0)
    assert bench.cluster is not None
    pids = workers(bench.cluster)
    assert sorted(pids) == ["0", "1"]
    os.kill(pids["1"], signal.SIGKILL)
    bench.wait("a second start", lambda: bench.starts() == [2])
    bench.wait("its own process", lambda: read_state(bench.sweep().runs[0].paths()).pid != first)
    bench.wait_for_step(0, step=40)
    bench.gptopt("cancel", "sweep", "0", "--yes")
    bench.wait_until_idle()
    paths = bench.sweep().runs[0].paths()
    stopped = read_state(paths)
    assert stopped.state is State.INTERRUPTED
    assert stopped.step >= 40
    assert (paths.checkpoints / f"checkpoint-{stopped.step}").is_dir()
    assert_locks_free(bench.tmp)
    assert "1 CANCELLED" in bench.gptopt("status", "sweep", expect=1)
    bench.gptopt("retry", "sweep", "--state", "CANCELLED")
    finish(bench, 80)
    history = bench.history(0).attempts
    # torchrun asks the other worker to stop when one is gone, and that one may checkpoint.
    assert history[0].cause == "killed"
    assert [item.cause for item in history[1:]] == ["cancelled", "completed"]
    assert [len(item.gpus) for item in history] == [2, 2, 2]
    assert read_state(paths).gpus == ["0", "1"]


def test_a_run_over_two_nodes(bench: Bench) -> None:
    bench.write([70], steps=8)
    bench.submit("--backend", "submitit", "--nodes-per-run", "2", "--time-min", "10")
    finish(bench, 8)
    (attempt,) = bench.history(0).attempts
    assert attempt.cause == "completed"
    logs = {file.name for file in bench.sweep().logs.iterdir()}
    assert len([name for name in logs if name.startswith("0.n")]) == 2, "the second node keeps a log of its own"
    assert len(bench.jobs()) == 1
