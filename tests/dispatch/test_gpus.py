"""Leases of GPUs between real processes, and the environment of a slot below disBatch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpt_opt.dispatch.slot import gpus
from gpt_opt.dispatch.slot.gpus import GpuBusy, lease, node_name, own_folder, slot_environment
from gpt_opt.errors import GptOptError
from gpt_opt.run.devices import visible

TAKE = """
import json, os, subprocess, sys
from gpt_opt.dispatch.slot.gpus import lease
held = lease(os.environ, int(sys.argv[1]), wait_s=20)
child = subprocess.Popen(["sleep", "60"], pass_fds=held.fds).pid if sys.argv[2:] else None
print(json.dumps([held.devices, child]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the locks of this process, and of those it starts, into a folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def slot(devices: str, node: str = "n1") -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": devices, "SLURMD_NODENAME": node, "SLURM_JOB_ID": "1"}


def start(stack: ExitStack, devices: str, count: int, *more: str) -> subprocess.Popen[str]:
    """Starts a process that takes GPUs, tells which, and keeps them."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", TAKE, str(count), *more],
            env={**os.environ, **slot(devices)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(process.kill)
    return process


def answer(process: subprocess.Popen[str]) -> tuple[list[str], int | None]:
    assert process.stdout is not None
    devices, child = json.loads(process.stdout.readline())
    return devices, child


@pytest.mark.parametrize("count", [1, 2])
def test_processes_at_once_get_gpus_of_their_own(processes: ExitStack, count: int) -> None:
    started = [start(processes, "0,1,2,3", count) for _ in range(4 // count)]
    taken = [device for process in started for device in answer(process)[0]]
    assert sorted(taken) == ["0", "1", "2", "3"]
    with pytest.raises(GpuBusy, match="GPU 0 by process"):
        lease(slot("0,1,2,3"), 1, wait_s=0)


def test_a_slot_that_sees_more_than_it_needs_takes_a_free_one() -> None:
    first, second = lease(slot("0,1"), 1, wait_s=0), lease(slot("0,1"), 1, wait_s=0)
    assert {*first.devices, *second.devices} == {"0", "1"}
    first.release()
    assert lease(slot("0,1"), 1, wait_s=0).devices == first.devices
    second.release()


def test_the_same_index_on_another_node_is_another_gpu() -> None:
    here, there = lease(slot("0"), 1, wait_s=0), lease(slot("0", "n2"), 1, wait_s=0)
    assert here.devices == there.devices == ("0",)
    here.release()
    there.release()


def test_a_busy_gpu_is_told_with_its_holder() -> None:
    held = lease(slot("1"), 1, wait_s=0)
    with pytest.raises(GpuBusy) as caught:
        lease(slot("1"), 1, wait_s=0)
    assert str(caught.value) == (
        f"a run needs 1 free of the GPUs 1 of n1, but held are GPU 1 by process {os.getpid()}: "
        "two slots were given the same GPU, or a run outlived its slot"
    )
    held.release()


def test_all_or_none_are_taken() -> None:
    held = lease(slot("1"), 1, wait_s=0)
    with pytest.raises(GpuBusy):
        lease(slot("0,1"), 2, wait_s=0)
    assert lease(slot("0"), 1, wait_s=0).devices == ("0",)
    held.release()


def test_a_slot_waits_for_a_gpu_that_is_just_being_left(processes: ExitStack) -> None:
    process = start(processes, "0", 1)
    answer(process)
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
    began = time.monotonic()
    assert lease(slot("0"), 1, wait_s=20).devices == ("0",)
    assert time.monotonic() - began > 0.5


def test_a_killed_process_leaves_its_gpu(processes: ExitStack) -> None:
    process = start(processes, "0", 1)
    answer(process)
    process.kill()
    process.wait()
    lease(slot("0"), 1, wait_s=0).release()


def test_a_gpu_stays_taken_while_a_process_that_was_passed_it_lives(processes: ExitStack) -> None:
    process = start(processes, "0", 1, "with a child")
    _, child = answer(process)
    assert child is not None
    process.kill()
    process.wait()
    with pytest.raises(GpuBusy):
        lease(slot("0"), 1, wait_s=0)
    os.kill(child, 9)
    lease(slot("0"), 1, wait_s=5).release()


@pytest.mark.parametrize(
    ("devices", "count", "expected"), [("", None, ()), ("0,1", 0, ()), ("0,1", None, ("0",)), ("2,3", 2, ("2", "3"))]
)
def test_how_many_are_taken(devices: str, count: int | None, expected: tuple[str, ...]) -> None:
    held = lease(slot(devices), count, wait_s=0)
    assert held.devices == expected
    assert len(held.fds) == len(expected)
    held.release()


def test_more_gpus_than_the_slot_has_is_an_error_of_the_request() -> None:
    with pytest.raises(GptOptError, match=r"needs 2 GPUs .* n1 shows 0 .*sbatch --gpus-per-task=2") as caught:
        lease(slot("0"), 2)
    assert not isinstance(caught.value, GpuBusy)


def test_locks_go_by_uuid_where_indices_are_counted_anew_in_every_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "nvidia_smi", lambda: {"0": "GPU-aaa"})
    first = lease(slot("0"), 1, wait_s=0)
    with pytest.raises(GpuBusy):
        lease(slot("GPU-aaa"), 1, wait_s=0)
    monkeypatch.setattr(gpus, "nvidia_smi", lambda: {"0": "GPU-bbb"})
    lease(slot("0"), 1, wait_s=0).release()
    first.release()


@pytest.mark.parametrize("environment", [{"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {"CUDA_VISIBLE_DEVICES": ""}, {}])
def test_a_slurm_job_without_gpus_shows_none(environment: dict[str, str]) -> None:
    assert visible({"SLURM_JOB_ID": "1", **environment}) == []


def test_visible_devices_as_cuda_names_them() -> None:
    assert visible({"CUDA_VISIBLE_DEVICES": "1, GPU-aaa,MIG-bbb"}) == ["1", "GPU-aaa", "MIG-bbb"]


def test_the_folder_of_the_locks_must_be_ones_own(tmp: Path) -> None:
    assert own_folder("gpus").stat().st_mode & 0o777 == 0o700
    own_folder("gpus").rmdir()
    (tmp / "elsewhere").mkdir()
    lock_dir_path = tmp / f"gptopt-gpus-{os.getuid()}"
    lock_dir_path.symlink_to(tmp / "elsewhere")
    with pytest.raises(GptOptError, match="must be a directory of your own"):
        own_folder("gpus")


SERVER = """
import json, os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]], env={**os.environ, **json.loads(sys.argv[2])}, check=True)
"""
SLOT = """
import json, os
from gpt_opt.dispatch.slot.gpus import slot_environment
print(json.dumps(slot_environment(os.environ)))
"""


def below_server(server: dict[str, str], task: dict[str, str]) -> dict[str, str]:
    """Returns what a task finds out about its slot, in a process below one that stands for disBatch's task server."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CUDA", "DISBATCH"))}
    done = subprocess.run(
        [sys.executable, "-c", SERVER, SLOT, json.dumps(task)],
        env=clean | server,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_task_takes_its_slot_from_its_server_not_from_the_first_task_of_the_node() -> None:
    server = {"SLURM_PROCID": "3", "SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "1", "SLURMD_NODENAME": "n2"}
    first = {"SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0", "SLURM_LOCALID": "0"}
    found = below_server(server, first | {"DISBATCH_TASKID": "5", "MINE": "kept"})
    assert {name: found.get(name) for name in server} == server
    assert "SLURM_LOCALID" not in found
    assert found["MINE"] == "kept"
    assert found["DISBATCH_TASKID"] == "5"


def test_a_slot_without_gpus_does_not_keep_those_of_another() -> None:
    server = {"SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}
    task = {"SLURM_PROCID": "0", "CUDA_VISIBLE_DEVICES": "0", "DISBATCH_TASKID": "5"}
    assert "CUDA_VISIBLE_DEVICES" not in below_server(server, task)


def test_outside_disbatch_the_environment_is_what_it_is() -> None:
    for own in ({"SLURM_JOB_ID": "1", "SLURM_PROCID": "2", "CUDA_VISIBLE_DEVICES": "1"}, {"DISBATCH_TASKID": "1"}):
        assert slot_environment(own) == own


def test_the_node_is_called_as_slurm_calls_it() -> None:
    assert node_name({"SLURMD_NODENAME": "n3"}) == "n3"
    assert node_name({}) == os.uname().nodename
