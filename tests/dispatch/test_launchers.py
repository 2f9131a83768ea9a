"""Hydra's -m with a launcher: the same run directories, skipping and exit codes as without one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.state import State, read_state
from gpt_opt.records.sweep_dir import find
from gpt_opt.run.signals import stop_on_signals
from tests.cluster.cluster import Cluster
from tests.conftest import ROOT, Runner

pytestmark = pytest.mark.usefixtures("forked")

DISBATCH = ["-m", "hydra/launcher=disbatch", "hydra.launcher.slots=2", "hydra.launcher.gpus_per_run=0"]
BETAS = ["loss.beta=0.1,0.2"]
LONG = [f"training.training_params.{key}=200" for key in ("max_steps", "save_every", "eval_every")]


def runs_in(folder: Path) -> list[RunPaths]:
    return [RunPaths(path) for path in find_run_dirs(folder / "outputs")]


def states_in(folder: Path) -> list[State]:
    return sorted(read_state(paths).state for paths in runs_in(folder))


def started(paths: Sequence[RunPaths]) -> list[int]:
    return [read_state(item).attempt for item in paths]


def expect_skipped(folder: Path, small: list[str], run_hydra: Runner) -> None:
    """A plain -m finds both runs complete, in the directories it would use itself, and makes no other."""
    before = runs_in(folder)
    plain = run_hydra(["-m", *small, *BETAS], cwd=folder)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert plain.stdout.count("already complete: ") == 2
    assert runs_in(folder) == before
    assert started(before) == [1, 1]


@pytest.mark.slow
def test_disbatch_runs_every_point_and_a_second_time_starts_none(
    tmp_path: Path, small: list[str], run_hydra: Runner
) -> None:
    done = run_hydra([*DISBATCH, *small, *BETAS], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert states_in(tmp_path) == [State.COMPLETED] * 2
    lines = [line for line in done.stdout.splitlines() if line.startswith("multirun/1: ")]
    assert lines[0] == "multirun/1: 2 PENDING"
    assert lines[-1] == "multirun/1: 2 COMPLETED"
    assert len(lines) == len(set(lines))
    expect_skipped(tmp_path, small, run_hydra)
    again = run_hydra([*DISBATCH, *small, *BETAS, "exp_name=again"], cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "again/1: 2 COMPLETED" in again.stdout
    assert started(runs_in(tmp_path)) == [1, 1]


@pytest.mark.slow
def test_disbatch_names_the_point_that_fails_and_completes_the_others(
    tmp_path: Path, small: list[str], run_hydra: Runner
) -> None:
    targets = "data.dataset._target_=no.such,gpt_opt.training.data.build_jsonl"
    done = run_hydra([*DISBATCH, *small, "loss.beta=0.1", targets], cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert states_in(tmp_path) == [State.COMPLETED, State.FAILED]
    assert "run 0 (data.dataset._target_=no.such): FAILED: " in done.stderr
    assert "run 1" not in done.stderr
    assert "Traceback" not in done.stderr
    # Like a plain -m, the same command tries what failed again, and only that.
    again = run_hydra([*DISBATCH, *small, "loss.beta=0.1", targets], cwd=tmp_path)
    assert again.returncode == 1
    assert sorted(started(runs_in(tmp_path))) == [1, 2]


@pytest.mark.slow
def test_disbatch_gives_two_ways_to_say_one_config_one_run(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    done = run_hydra([*DISBATCH, *small, "loss.beta=0.1,1e-1"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(find("multirun/1", tmp_path / "sweeps").runs) == 1
    assert states_in(tmp_path) == [State.COMPLETED]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("dry_run=true", "dry_run: must be false"),
        ("rerun=true", "rerun: must be false"),
        ("hydra.sweep.dir=elsewhere", "hydra.sweep.dir: does not reach the runs"),
        ("hydra.launcher.gpus_per_run=-1", "hydra.launcher.gpus_per_run: (GPUs of one run; 0 for none) must be"),
        ("hydra.launcher.slots=0", "hydra.launcher.slots: must be at least 1, but is 0"),
        ("hydra.launcher.slots=many", "hydra.launcher.slots=many: "),
        ("hydra.launcher.gpus=1", "hydra.launcher.gpus: is not a key"),
    ],
)
def test_disbatch_refuses_what_its_runs_would_not_do(
    words: str, complaint: str, tmp_path: Path, small: list[str], run_hydra: Runner
) -> None:
    done = run_hydra(["-m", "hydra/launcher=disbatch", *small, *BETAS, words], cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert complaint in done.stderr
    assert not (tmp_path / "sweeps").exists()
    assert not runs_in(tmp_path)


def test_the_keys_of_disbatch_are_documented() -> None:
    from hydra_plugins.gpt_opt_disbatch_launcher.config import DisBatchLauncherConf

    keys = set(OmegaConf.structured(DisBatchLauncherConf)) - {"_target_"}
    assert keys == {"slots", "gpus_per_run", "runs_per_gpu", "cpus_per_run"}
    assert all(f"    {key}: " in (DisBatchLauncherConf.__doc__ or "") for key in keys)


@pytest.mark.slow
def test_submitit_local_runs_every_point(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    done = run_hydra(["-m", "hydra/launcher=submitit_local", *small, *BETAS], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert states_in(tmp_path) == [State.COMPLETED] * 2
    expect_skipped(tmp_path, small, run_hydra)


def test_submitit_local_fails_with_the_word_of_the_run(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    arguments = ["-m", "hydra/launcher=submitit_local", *small, "loss.beta=0.1", "data.dataset._target_=no.such"]
    done = run_hydra(arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Error loading 'no.such'" in done.stderr
    assert "Traceback" not in done.stderr
    assert states_in(tmp_path) == [State.FAILED]


@pytest.mark.slow
@pytest.mark.slurm
def test_submitit_slurm_checkpoints_before_its_limit_and_goes_on(
    cluster: Cluster, tmp_path: Path, small: list[str], run_hydra: Runner, run_forks: Mapping[str, str]
) -> None:
    """One run is asked to stop, as at the time limit, in the middle; the other is left alone."""
    arguments = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20", "hydra.launcher.max_num_timeout=1"]
    command = [sys.executable, str(ROOT / "run_hydra.py"), "-m", *arguments, *small, *BETAS, *LONG]
    environment = {**cluster.env, **run_forks, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        asked = wait_for_a_step(tmp_path, process)
        cluster.run("scancel", "--signal=USR2", slurm_job(asked))
        assert process.wait(120) == 0, process.communicate()[1]
    assert states_in(tmp_path) == [State.COMPLETED] * 2
    assert read_state(asked).attempt == 2
    assert "resuming from checkpoint-" in asked.task_log.read_text(), "save_every asks for none before the end"
    claims = sorted(json.loads(file.read_text())["released"] for file in asked.claims.glob("*.json"))
    assert len(claims) == 2
    steps = [row["step"] for row in rows(asked) if "loss" in row]
    assert steps == list(range(2, 201, 2)), "no gap and no repeat"
    plain = run_hydra(["-m", *small, *BETAS, *LONG], cwd=tmp_path)
    assert plain.stdout.count("already complete: ") == 2


def test_the_warning_of_the_time_limit_is_passed_on_when_the_run_has_checkpointed() -> None:
    order: list[str] = []
    former = signal.signal(signal.SIGUSR2, lambda number, frame: order.append("submitit"))
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGUSR2)
            order.append("checkpoint" if stop else "not asked to stop")
    finally:
        signal.signal(signal.SIGUSR2, former)
    assert order == ["checkpoint", "submitit"]


def wait_for_a_step(folder: Path, process: subprocess.Popen[str]) -> RunPaths:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for paths in runs_in(folder):
            if read_state(paths).step >= 20:
                return paths
        time.sleep(0.05)
    process.terminate()
    raise AssertionError(f"no run came to step 20: {process.communicate()[1]}")


def slurm_job(paths: RunPaths) -> str:
    ids = read_state(paths).slurm
    assert ids is not None
    return ids["slurm_job_id"]


def rows(paths: RunPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.metrics.read_text().splitlines()]
