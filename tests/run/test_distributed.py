"""Runs of two processes under torchrun, on CPU: the same numbers as one process, one voice, no hanging."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from gpt_opt.config.schema import register
from gpt_opt.errors import ClaimLost, Interrupted
from gpt_opt.plan.compose.composer import Composer
from gpt_opt.records.claim import acquire, read_claim
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.state import State, read_state, write_state
from gpt_opt.run import distributed, execute
from gpt_opt.run.resolvers import register_resolvers
from gpt_opt.run.signals import StopRequest
from tests.conftest import CONFIG_DIR, ROOT, Runner, small_overrides

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked")]

CLOCK = ("time", "tokens_per_second", "eval/seconds")
DPO = ["loss.beta=0.1"]
SAMPLES = ["training.sampling.sample_during_eval=true"]


def start(overrides: list[str], by_itself: bool = False) -> subprocess.Popen[str]:
    """Starts a run of two processes: under torchrun, or by run_hydra.py, which becomes torchrun for two GPUs."""
    if by_itself:
        command = [sys.executable, str(ROOT / "run_hydra.py"), *overrides, "gpu.use_ddp=true"]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0,1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(ROOT / "run_hydra.py"), *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(overrides: list[str], by_itself: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a run of two processes to its end, which must come soon."""
    process = start(overrides, by_itself)
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.terminate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def only_run(folder: Path) -> RunPaths:
    (found,) = find_run_dirs(folder / "outputs")
    return RunPaths(found)


def rows(paths: RunPaths) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what depends on the clock."""
    parsed = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in parsed]


def assert_same(found: RunPaths, expected: RunPaths) -> None:
    """Every metric of every row is the same but for rounding, and so is the number of tokens."""
    for row, other in zip(rows(found), rows(expected), strict=True):
        # Rewards begin as differences of nearly equal numbers, so their rounding is relative to what they come from.
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
    tokens = [json.loads(paths.summary.read_text())["tokens"] for paths in (found, expected)]
    assert tokens[0] == tokens[1]


def two_as_one(
    folder: Path, run_hydra: Runner, overrides: list[str], base: Callable[[Path], list[str]] = small_overrides
) -> RunPaths:
    """Trains in two processes and in one, whose numbers must be the same; returns the run of the one.

    `base` says where each of them writes, and with what.
    """
    places = [folder / "two", folder / "one"]
    for place in places:
        place.mkdir()
    for start_it, place in zip((run, run_hydra), places, strict=True):
        done = start_it([*base(place), *overrides])
        assert done.returncode == 0, done.stdout + done.stderr
    two, one = map(only_run, places)
    assert_same(two, one)
    return one


def ranks(folder: Path) -> dict[int, int]:
    """Returns the process id of each rank of the run that writes below a folder."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(folder) in item for item in process.cmdline()) and "RANK" in process.environ():
                found[int(process.environ()["RANK"])] = process.pid
    return found


def wait_for_step(folder: Path, process: subprocess.Popen[str], step: int) -> RunPaths:
    deadline = time.time() + 300  # DeepSpeed may compile itself first
    while time.time() < deadline and process.poll() is None:
        found = find_run_dirs(folder / "outputs") if (folder / "outputs").exists() else []
        if found and RunPaths(found[0]).state.exists() and read_state(RunPaths(found[0])).step >= step:
            return RunPaths(found[0])
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[1]}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run of two processes: its folder, and what it was started with."""
    folder = tmp_path_factory.mktemp("two")
    overrides = [*small_overrides(folder), *DPO, *SAMPLES]
    done = run(overrides, by_itself=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("completed: ") == 1
    return folder, overrides


def test_two_processes_give_the_numbers_of_one(
    whole: tuple[Path, list[str]], tmp_path: Path, run_hydra: Runner
) -> None:
    alone = run_hydra([*small_overrides(tmp_path), *DPO, *SAMPLES])
    assert alone.returncode == 0, alone.stdout + alone.stderr
    two, one = only_run(whole[0]), only_run(tmp_path)
    assert len([row for row in rows(two) if "loss" in row]) == 6
    assert_same(two, one)
    texts = [[json.loads(line) for line in paths.samples.read_text().splitlines()] for paths in (two, one)]
    assert [row["step"] for row in texts[0]] == [step for step in (0, 4, 8, 12) for _ in range(4)]
    assert texts[0][:4] == texts[1][:4]  # later weights differ by rounding
    assert {path.name for path in two.checkpoints.rglob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    claim = read_claim(two)
    assert claim is not None
    assert claim.attempt == 1
    log = two.task_log.read_text().splitlines()
    assert len(log) == len({line.partition("]")[2] for line in log})  # by one process: no line twice


def test_a_complete_run_is_skipped_with_one_line(whole: tuple[Path, list[str]]) -> None:
    done = run(whole[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already complete: ") == 1
    assert len(done.stdout.splitlines()) == 1


SLOW_THREADS = '''"""A callback that leaves the threads of gloo no time to let go of the last sum."""
import os
from pathlib import Path
import torch
from transformers import TrainerCallback

class SlowThreads(TrainerCallback):
    def on_train_end(self, args, state, control, **_):
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), {min(os.sched_getaffinity(0))})
            if "gloo_runloop" in (thread / "comm").read_text():
                os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
        for _ in range(4):  # so that each of its threads has one to let go of
            torch.distributed.all_reduce(torch.ones(1))
'''


def test_processes_end_however_late_the_threads_of_gloo_are(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine such a thread may wait for Python's lock when the model, which joins it, is freed."""
    (tmp_path / "slow_threads.py").write_text(SLOW_THREADS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), os.pathsep)
    done = run(
        [*small, *DPO, "training.training_params.max_steps=2", "callbacks=[{_target_: slow_threads.SlowThreads}]"]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("completed: ") == 1


LONG = ["training.training_params.max_steps=150", "training.training_params.save_every=50"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_to_one_rank_stops_all_and_the_run_resumes(
    tmp_path: Path, run_hydra: Runner, small: list[str], alone: RunPaths, processes: int
) -> None:
    overrides = [*small, *LONG, *DPO]
    process = start(overrides)
    paths = wait_for_step(tmp_path, process, 10)
    os.kill(ranks(tmp_path)[1], signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.count("interrupted by ") == 1, output + errors
    state = read_state(paths)
    assert state.state is State.INTERRUPTED
    assert (paths.checkpoints / f"checkpoint-{state.step}").is_dir()
    again = run(overrides) if processes == 2 else run_hydra(overrides)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"resuming from checkpoint-{state.step}" in again.stdout
    assert read_state(paths).state is State.COMPLETED
    assert_same(paths, alone)


def test_a_killed_rank_leaves_an_interrupted_run(tmp_path: Path, small: list[str]) -> None:
    process = start([*small, *LONG, *DPO])
    paths = wait_for_step(tmp_path, process, 10)
    os.kill(ranks(tmp_path)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended without a word" in errors
    assert read_state(paths).state is State.INTERRUPTED


def test_what_is_wrong_is_told_once_and_nothing_hangs(tmp_path: Path, small: list[str]) -> None:
    uneven = run([*small, *DPO, "training.training_params.batch_size=7"])
    assert uneven.returncode == 1  # torchrun's own; that of rank 0 is in its report
    assert "exitcode  : 2" in uneven.stderr
    assert uneven.stderr.count("set batch_size to a multiple of 6") == 1
    assert not list((tmp_path / "outputs").rglob("state.json"))
    # What both processes find out in the middle of the work, is said by the first one.
    failed = run([*small, *DPO, "data.dataset._target_=json.loads"])
    assert failed.returncode == 1
    assert failed.stderr.count("error: ") == 1
    state = read_state(only_run(tmp_path))
    assert state.state is State.FAILED
    assert state.error is not None
    assert "loads()" in state.error["traceback"]


def test_two_processes_agree_when_to_stop_and_which_checkpoint_is_the_best(
    tmp_path: Path, run_hydra: Runner, small: list[str]
) -> None:
    """By its distance from the reference the first evaluation in training is the best, and the next two are not."""
    keys = "training.finetuning"
    early = [f"{keys}.metric_for_best_model=eval/kl", f"{keys}.load_best_model_at_end=true"]
    early += [f"{keys}.early_stopping_patience=2", "training.training_params.max_steps=40", *DPO]
    done = run([*small, *early])
    assert done.returncode == 0, done.stdout + done.stderr
    alone = tmp_path / "alone"
    alone.mkdir()
    assert run_hydra([*small_overrides(alone), *early]).returncode == 0
    two, one = only_run(tmp_path), only_run(alone)
    assert_same(two, one)
    for paths in (two, one):
        summary = json.loads(paths.summary.read_text())
        assert (summary["step"], summary["final_step"]) == (12, 4)
        assert {path.name for path in paths.checkpoints.iterdir()} == {"checkpoint-4", "checkpoint-12", "final"}


def test_a_rank_that_is_asked_to_stop_before_there_is_an_order_waits_for_it_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words: list[str | None] = [None, '{"root": "x"}']
    channel = SimpleNamespace(read=lambda name: words.pop(0) if words else None)
    stop = StopRequest()
    assert distributed._order_of(channel, stop) == {"root": "x"}  # type: ignore[arg-type]
    stop.signal = signal.SIGTERM
    monkeypatch.setattr(distributed, "FIRST_WORD_S", 0.0)
    assert distributed._order_of(channel, stop) is None  # type: ignore[arg-type]


def test_a_run_that_is_asked_to_stop_before_it_trains_orders_nothing(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    register_resolvers()
    prepare = execute._Training.prepare

    def prepare_and_stop(attempt: execute._Training, files: dict[str, str], saved_step: int | None) -> None:
        prepare(attempt, files, saved_step)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(execute._Training, "prepare", prepare_and_stop)
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    config = Composer(CONFIG_DIR).compose([*small, *DPO]).config
    with pytest.raises(Interrupted):
        execute.execute(config, paths, {})
    assert read_state(paths).state is State.INTERRUPTED
    assert not paths.checkpoints.exists()
    (paths.checkpoints / "checkpoint-8").mkdir(parents=True)
    write_state(paths, replace(read_state(paths), step=10, total_steps=12))
    with pytest.raises(Interrupted):
        execute.execute(config, paths, {})
    assert (read_state(paths).step, read_state(paths).total_steps) == (8, 12), "what the next start goes on from"


def test_a_second_ctrl_c_in_a_finalizer_ends_the_run_all_the_same(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    register_resolvers()

    class Bar:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def train(attempt: execute._Training) -> None:
        signal.raise_signal(signal.SIGINT)
        Bar()

    monkeypatch.setattr(execute._Training, "_train", train)
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    with pytest.raises(KeyboardInterrupt, match="second signal"):
        execute.execute(Composer(CONFIG_DIR).compose([*small, *DPO]).config, paths, {})
    assert read_state(paths).state is State.INTERRUPTED


def test_room_for_the_last_word_is_given_back_but_not_that_of_a_later_attempt(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    register_resolvers()
    config, paths = Composer(CONFIG_DIR).compose([*small, *DPO]).config, RunPaths(tmp_path / "run")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with acquire(paths) as claim:
        attempt = execute._Training(config, paths, claim, StopRequest())
        paths.reserve.touch()
        with pytest.raises(SystemExit):
            attempt._end_with(distributed.PeerFailed(1, {"type": "E", "message": "m", "traceback": "t"}))
    assert not paths.reserve.exists()
    assert read_state(paths).state is State.FAILED
    with acquire(paths):
        paths.reserve.touch()
        with pytest.raises(ClaimLost), attempt.recorded():
            claim.require()
        assert paths.reserve.exists(), "it is the later attempt's"
