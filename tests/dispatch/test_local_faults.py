"""Faults that need no cluster: torn records, a full disk, a process that outsleeps its claim, hostile values."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from gpt_opt.dispatch.driver_claim import is_driven
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.records.claim import STALE_AFTER_S, read_claim
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.state import State, StateUnreadable, read_state
from gpt_opt.records.sweep_dir import create, find
from tests.cluster.bench import Bench
from tests.conftest import ROOT, Runner

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path: Path, run_forks: Mapping[str, str]) -> Bench:
    return Bench(tmp_path, None, run_forks)


def drive(bench: Bench, expect: int = 0, *flags: str) -> str:
    """Runs the sweep on this machine in the foreground, as submit.sh does where there is no Slurm."""
    environment = bench.env
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    return bench.call("gptopt", "drive", "sweep.json", *flags, "--slots", "2", expect=expect)


def test_a_truncated_state_is_never_taken_for_done_and_never_costs_the_result(bench: Bench) -> None:
    bench.write([70], steps=8)
    drive(bench)
    run = bench.sweep().runs[0]
    paths, before = run.paths(), bench.results()
    whole = paths.state.read_bytes()
    for length in range(len(whole)):
        paths.state.write_bytes(whole[:length])
        try:
            assert read_state(paths).state is State.COMPLETED
            assert json.loads(whole[:length]) == json.loads(whole), "only whitespace may be missing"
        except StateUnreadable:
            assert classify_runs(bench.sweep()).due == (run,)
    for length in (0, len(whole) // 2):
        paths.state.write_bytes(whole[:length])
        drive(bench)
        assert read_state(paths).state is State.COMPLETED
    assert bench.results() == before
    assert "already complete" in (bench.sweep().logs / "0.out").read_text()


def test_a_truncated_state_in_mid_run_resumes(bench: Bench) -> None:
    bench.write([70], pause_s=0.05)
    driver = subprocess.Popen(
        ["gptopt", "drive", "sweep.json", "--slots", "1"], cwd=bench.folder, env=bench.env, stdout=subprocess.DEVNULL
    )
    bench.wait("a sweep", lambda: (bench.folder / "sweeps" / "sweep" / "1" / "tasks").exists())
    bench.wait_for_step(0)
    driver.send_signal(signal.SIGHUP)  # as a closed terminal does
    assert driver.wait(60) == 1
    slot = subprocess.Popen(["gptopt", "exec", "sweep", "0"], cwd=bench.folder, env=bench.env)
    bench.wait("a second attempt", lambda: len(bench.history(0).attempts) == 2)
    slot.send_signal(signal.SIGINT)
    assert slot.wait(60) == 130
    state = bench.sweep().runs[0].paths().state
    state.write_bytes(state.read_bytes()[:30])
    drive(bench)
    bench.verify()
    assert "resuming from checkpoint-" in (bench.sweep().logs / "0.out").read_text()


def test_a_retry_reaches_a_driver_that_works_on_another_shape(bench: Bench) -> None:
    file = bench.write([70, 71], pause_s=0.05)
    spec = json.loads(file.read_text())
    values = spec.pop("grid") | {"resources.cpus_per_run": [1, 2]}
    file.write_text(json.dumps({**spec, "zip": values}))
    sweep = bench.submit("--backend", "local", "--slots", "1")
    assert [part.shape for part in sweep.parts()] == [0, 1]
    bench.gptopt("cancel", "sweep", "0", "--yes")
    bench.wait_for_step(1)
    assert "submitted already" in bench.gptopt("retry", "sweep", "--state", "CANCELLED")
    assert "must be runs of one shape" in bench.gptopt("exec", "sweep", "0", "1", expect=2)
    bench.wait("the driver's end", lambda: not is_driven(sweep))
    assert len(classify_runs(sweep).done) == 2
    assert "error" not in (sweep.logs / "driver-local.out").read_text()


def test_a_claim_file_that_is_not_ours_costs_one_attempt_and_is_named(bench: Bench) -> None:
    bench.write([70], steps=8)
    (bench.folder / "break-70").touch()
    drive(bench, expect=1)
    (bench.folder / "break-70").unlink()
    foreign = bench.sweep().runs[0].paths().claims / "0002.json"
    foreign.write_text("not json")
    bench.gptopt("retry", "sweep")
    bench.wait("its end", lambda: bool(classify_runs(bench.sweep()).needs_retry))
    told = bench.gptopt("status", expect=1)
    assert f"{foreign}: must be a claim written by gpt-opt" in " ".join(told.split())
    assert [item.cause for item in bench.history(0).attempts] == ["exception", "request"]
    foreign.unlink()
    bench.wait("the end of the driver", lambda: not is_driven(bench.sweep()))
    bench.gptopt("retry", "sweep")
    bench.wait_until_done()
    bench.verify(steps=8)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB at tmp_path/outputs."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a small tmpfs needs root: the full disk is not tried")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("free_kib", [0, 160])
def test_a_full_disk_fails_the_run_and_retry_resumes_it(bench: Bench, small_disk: Path, free_kib: int) -> None:
    bench.write([70])
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * ((3 << 20) - (free_kib << 10) - 4096))
    drive(bench, expect=1)
    assert bench.history(0).exhausted() == "no_space"
    assert len(bench.history(0).attempts) == 1
    assert "no space left" in bench.gptopt("status", expect=1)
    ballast.unlink()
    bench.gptopt("retry", "sweep")
    bench.wait_until_done()
    bench.verify()


def test_a_full_disk_fails_a_single_run_and_the_same_command_resumes_it(
    small: list[str], small_disk: Path, run_hydra: Runner
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * ((3 << 20) - (390 << 10)))  # room for one checkpoint, not for two
    done = run_hydra([*small, "loss.beta=0.1"])
    assert done.returncode == 1
    assert "DiskFull: No space left on device: " in done.stderr
    assert "make room there, then give the same command again" in done.stderr
    (paths,) = (RunPaths(path) for path in find_run_dirs(small_disk))
    state = read_state(paths)
    assert (state.state, (state.error or {})["type"]) == (State.FAILED, "DiskFull")
    assert [path.name for path in paths.checkpoints.iterdir()] == ["checkpoint-4"]
    assert not paths.reserve.exists()
    ballast.unlink()
    done = run_hydra([*small, "loss.beta=0.1"])
    assert done.returncode == 0, done.stderr
    assert "resuming from checkpoint-4" in done.stdout


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A memory cgroup of 1 GiB; its `cgroup.procs` takes the process that shall live in it."""
    group = Path(f"/sys/fs/cgroup/memory/gptopt-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(1 << 30))
    except OSError:
        pytest.skip("a memory cgroup needs root and cgroup v1: the kernel's out-of-memory kill is not tried")
    yield group / "cgroup.procs"
    group.rmdir()


def test_the_warm_process_of_a_slot_is_killed_with_9(bench: Bench) -> None:
    bench.write([70, 71], pause_s=0.05)
    bench.gptopt("submit", "sweep.json", "--backend", "local", "--slots", "1")
    pid = bench.wait_for_step(0)
    server = psutil.Process(pid).parent()
    assert server is not None
    server.kill()
    bench.wait_until_done()
    bench.verify()
    assert bench.starts() == [2, 1]
    assert bench.history(0).attempts[0].cause == "stopped", "with a checkpoint"


@pytest.mark.new_process  # a fork has its memory from its server
def test_out_of_memory_is_tried_again_only_with_more_memory(bench: Bench, little_memory: Path) -> None:
    bench.write([70])
    (bench.folder / "eat-70").touch()
    inside = f"echo $$ > {little_memory}; exec gptopt drive sweep.json --slots 1"
    bench.call("bash", "-c", inside, expect=1)
    assert bench.history(0).exhausted() == "out_of_memory"
    assert len(bench.history(0).attempts) == 1
    assert "out of memory" in bench.gptopt("status", expect=1)
    (bench.folder / "eat-70").unlink()
    drive(bench, expect=1)
    assert len(bench.history(0).attempts) == 1
    bench.gptopt("submit", "sweep.json", "--backend", "local", "--mem-gb", "4")
    bench.wait_until_done()
    bench.verify()


def test_a_zombie_of_attempt_1_wakes_after_attempt_2_finished(bench: Bench) -> None:
    bench.write([70], pause_s=0.05)
    overrides = bench.gptopt("plan", "sweep.json", "--json")
    run = json.loads(overrides[: overrides.rindex("}") + 1])["items"][0]
    command = [sys.executable, str(ROOT / "run_hydra.py"), *run["overrides"]]
    zombie = subprocess.Popen(command, cwd=bench.folder, env=bench.env, stdout=subprocess.DEVNULL)
    paths = RunPaths(Path(run["run_dir"]))

    def step() -> int:
        try:
            return read_state(paths).step
        except StateUnreadable:
            return -1

    while step() < 60:
        assert zombie.poll() is None
        time.sleep(0.05)
    pid = read_state(paths).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        claim = read_claim(paths)
        assert claim is not None
        long_ago = claim.age_s + STALE_AFTER_S + 10
        file = paths.claims / "0001.json"
        os.utime(file, (file.stat().st_mtime - long_ago, file.stat().st_mtime - long_ago))
        drive(bench)
        before = {name: getattr(paths, name).read_bytes() for name in ("summary", "state", "metrics")}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert zombie.wait(60) == 1
    assert before == {name: getattr(paths, name).read_bytes() for name in ("summary", "state", "metrics")}
    assert json.loads(paths.summary.read_text())["attempt"] == 2
    bench.verify()


def test_values_and_folders_reach_the_run_unchanged_and_never_a_shell(
    tmp_path: Path, run_forks: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOPT_CACHE", str(tmp_path / "cache"))
    (folder := tmp_path / "my runs [ü] 50% it's $(touch X)").mkdir()
    bench = Bench(folder, None, run_forks)
    hostile = ["$(touch X)`touch X`; touch X #", "a\nb'\"\\ünï\tcode", "#DISBATCH PREFIX touch X"]
    bench.write([70], steps=2, zip={"exp_name": hostile, "seed": list(range(len(hostile)))})
    drive(bench)
    assert not list(tmp_path.rglob("X"))
    said = [json.loads(run.paths().config.read_text())["exp_name"] for run in bench.sweep().runs]
    assert said == hostile


def test_no_secret_and_no_environment_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", canary := "canary-4f1d9a")
    bench.write([70], steps=2)
    drive(bench)
    for file in [*(bench.folder / "sweeps").rglob("*"), *(bench.folder / "outputs").rglob("*")]:
        if file.is_file():
            assert canary.encode() not in file.read_bytes(), file
    sweep = bench.sweep()
    assert sweep.root.stat().st_mode & 0o777 == 0o700
    assert sweep.disbatch.stat().st_mode & 0o777 == 0o700


def test_a_sweep_directory_appears_whole_or_not_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write([70], steps=2)
    drive(bench)
    first = bench.sweep()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        create(first.root.parent, "{}", first.runs, first.submission())
    monkeypatch.undo()
    assert find("sweep", bench.folder / "sweeps").root == first.root
    create(first.root.parent, "{}", first.runs, first.submission())
    assert sorted(entry.name for entry in first.root.parent.iterdir()) == [".lock", "1", "2"]
