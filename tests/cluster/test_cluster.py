"""The cluster does what tests rely on: it runs jobs on GPUs, requeues, loses nodes, and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import procs
from tests.cluster.cluster import ROOT, Cluster, guarded
from tests.cluster.config import MAX_ARRAY_SIZE, NODES, TINY_QOS_MAX_SUBMIT
from tests.cluster.layout import ClusterError, _free_ports, missing


@pytest.fixture
def clean(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster with idle nodes, before and after the test."""
    cluster.reset()
    yield cluster
    cluster.reset()


def within(seconds: float, holds: Callable[[], bool]) -> float:
    """Waits until `holds` and returns how long that took; fails after `seconds`."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began


def submit(cluster: Cluster, folder: Path, script: str, *flags: str) -> str:
    """Submits a script whose output goes to folder/out, appended to at every start; returns the job's id."""
    output = ("-o", str(folder / "out"), "--open-mode=append", "-D", str(folder))
    return cluster.run("sbatch", "--parsable", *output, *flags, "--wrap", script).strip()


def of_cluster(home: Path) -> list[procs.Process]:
    """Returns every process that has this cluster in its environment: daemons, jobs, users."""
    mine = str(home / "slurm.conf")
    return [process for process in procs.everything().values() if process.environ.get("SLURM_CONF") == mine]


@pytest.mark.slurm
def test_four_idle_nodes_with_two_gpus(clean: Cluster) -> None:
    lines = clean.run("sinfo", "-N", "-h", "-o", "%N %t %c %G").splitlines()
    assert lines == [f"{node} idle 2 gpu:2" for node in NODES]


@pytest.mark.slurm
def test_every_task_sees_a_gpu_of_its_own_and_sacct_knows_the_job(clean: Cluster, tmp_path: Path) -> None:
    job = submit(
        clean, tmp_path, "srun sh -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'", "-n8", "--gpus-per-task=1"
    )
    assert clean.wait_job(job) == "COMPLETED"
    seen = sorted((tmp_path / "out").read_text().splitlines())
    assert seen == [f"{node} {gpu}" for node in NODES for gpu in range(2)]
    within(20, lambda: clean.run("sacct", "-XnP", "-j", job, "-o", "State,ExitCode").strip() == "COMPLETED|0:0")


@pytest.mark.slurm
def test_small_limits_refuse_submissions(clean: Cluster, tmp_path: Path) -> None:
    for _ in range(TINY_QOS_MAX_SUBMIT):
        submit(clean, tmp_path, "sleep 60", "--qos=tiny")
    with pytest.raises(ClusterError, match="QOSMaxSubmitJobPerUserLimit"):
        submit(clean, tmp_path, "sleep 60", "--qos=tiny")
    with pytest.raises(ClusterError, match="Invalid job array"):
        submit(clean, tmp_path, "true", f"--array=0-{MAX_ARRAY_SIZE}")
    job = submit(clean, tmp_path, "true", f"--array=0-{MAX_ARRAY_SIZE - 1}")
    assert len(clean.job_states(job)) == MAX_ARRAY_SIZE


@pytest.mark.slurm
def test_a_requeued_job_starts_again_soon(clean: Cluster, tmp_path: Path) -> None:
    def starts() -> list[str]:
        return (tmp_path / "starts").read_text().split() if (tmp_path / "starts").exists() else []

    job = submit(clean, tmp_path, "echo start-${SLURM_RESTART_COUNT:-0} >> starts; sleep 300")
    within(20, lambda: starts() == ["start-0"])
    clean.run("scontrol", "requeue", job)
    within(20, lambda: starts() == ["start-0", "start-1"])


@pytest.mark.slurm
def test_a_cancelled_job_leaves_no_orphan(clean: Cluster, tmp_path: Path) -> None:
    job = submit(clean, tmp_path, "srun sh -c '(trap \"\" TERM; exec sleep 302) & wait'", "-n8")
    within(20, lambda: sum(process.command == "sleep 302" for process in clean.processes()) == 8)
    clean.run("scancel", job)
    within(30, lambda: clean.processes() == [])


@pytest.mark.slurm
@pytest.mark.slow(50)
def test_a_killed_node_loses_its_processes_goes_down_and_comes_back(clean: Cluster, tmp_path: Path) -> None:
    # The second child leaves its session and drops its environment: only its place below slurmstepd tells of it.
    job = submit(clean, tmp_path, "srun sh -c 'setsid env -i /bin/sleep 301 & sleep 300'", "-n8", "--gpus-per-task=1")
    within(20, lambda: sum(process.command.endswith("sleep 301") for process in clean.processes()) == 8)
    elsewhere = {process.pid for process in clean.processes() if process.node != "n3"}
    began = time.monotonic()
    clean.kill_node("n3")
    assert time.monotonic() - began < 2
    assert {process.pid for process in clean.processes()} == elsewhere
    within(60, lambda: "DOWN" in clean.node_state("n3"))

    def ended() -> bool:  # slurmdbd hears of it after slurmctld has set the node down
        states = clean.run("sacct", "-DXnP", "-j", job, "-o", "State")
        return "NODE_FAIL" in states or "REQUEUED" in states

    within(30, ended)
    clean.restore_node("n3")
    within(30, lambda: clean.job_states(job) == {job: "RUNNING"})


@pytest.mark.slurm
def test_two_clusters_do_not_meet_and_stop_leaves_nothing(clean: Cluster, tmp_path: Path) -> None:
    with guarded(tmp_path / "second") as second:
        submit(second, tmp_path, "setsid sleep 300", "-n8")
        within(20, lambda: len(second.processes()) >= 2)
        assert clean.processes() == [], "a process of the second cluster counts as one of the first"
        assert Cluster.start(second.folder) == second
        assert second.processes(), "a second start must keep the cluster that runs"
        second.stop()
        second.stop()
        assert of_cluster(second.home) == []
        assert [path.name for path in second.home.iterdir()] == ["log"]
    assert clean.healthy()


@pytest.mark.slurm
def test_a_start_on_the_remains_of_a_killed_cluster(slurm: None, tmp_path: Path) -> None:
    with guarded(tmp_path / "cluster") as cluster:
        submit(cluster, tmp_path, "sleep 300", "-n8")
        within(20, lambda: cluster.processes() != [])
        remains = {(process.pid, process.started) for process in of_cluster(cluster.home)}
        for process in of_cluster(cluster.home):
            if process.name in ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd"):
                process.signal(signal.SIGKILL)
        again = Cluster.start(tmp_path / "cluster")
        assert again.run("squeue", "-h") == ""
        assert remains.isdisjoint((process.pid, process.started) for process in of_cluster(cluster.home))


@pytest.mark.slurm
def test_a_cluster_ends_with_the_process_that_started_it(slurm: None, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from tests.cluster.cluster import guarded\n"
        "with guarded(pathlib.Path(sys.argv[1])): print('up', flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cluster")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
    assert starter.returncode == -signal.SIGKILL
    home = Cluster(tmp_path / "cluster").home
    within(30, lambda: of_cluster(home) == [])
    within(30, lambda: [path.name for path in home.iterdir()] == ["log"])


def test_a_port_that_anything_holds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held, socket.socket() as other:
        held.bind(("127.0.0.1", 0))  # and does not listen
        other.bind(("127.0.0.1", 0))
        taken, free = (item.getsockname()[1] for item in (held, other))
        other.close()
        draws = iter([taken, free, free, taken])
        monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: next(draws))
        with pytest.raises(StopIteration):
            _free_ports(2)
        draws = iter([taken, free])
        assert _free_ports(1) == [free]


def test_a_users_environment_has_no_other_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SLURM_CONF", "/elsewhere/slurm.conf")
    monkeypatch.setenv("KEPT", "yes")
    env = Cluster(tmp_path).env
    assert {key: value for key, value in env.items() if key.startswith(("SLURM", "SBATCH"))} == {
        "SLURM_CONF": str(tmp_path / "home" / "slurm.conf")
    }
    assert env["KEPT"] == "yes"


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    with pytest.raises(ClusterError, match="must be new, empty or a cluster's"):
        Cluster(tmp_path).stop()
    assert (tmp_path / "README").read_text() == "mine"
    assert os.listdir(tmp_path) == ["README"]


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program, path: None if program == "munged" else program)
    assert missing() == "munged not found; as root on Debian or Ubuntu: tests/cluster/packages.sh"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in missing()


def test_packages_says_what_to_install_where_it_cannot(tmp_path: Path) -> None:
    system = {folder / name for folder in (Path("/usr/bin"), Path("/bin")) for name in ("bash", "id", "find")}
    for program in system:
        if program.exists() and not (tmp_path / program.name).exists():
            (tmp_path / program.name).symlink_to(program)
    script = ROOT / "tests" / "cluster" / "packages.sh"
    done = subprocess.run(
        [str(tmp_path / "bash"), str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    compiler, browser, slurm = done.stdout.splitlines()
    assert "apt-get install g++" in compiler
    assert "apt-get install chromium chromium-driver" in browser
    assert "apt-get install slurm-wlm slurmdbd" in slurm
