"""Directories of others: Hydra, submitit, the Trainer, tensorboard, wandb. Read as far as they go, never executed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import load_metrics, load_runs
from gpt_opt.records.run_dir import RunPaths
from tests.helpers.loggers import wandb_run, write_events

MakeRun = Callable[..., RunPaths]


def hydra_run(root: Path, config: str, overrides: str = "[]") -> Path:
    (root / ".hydra").mkdir(parents=True)
    (root / ".hydra" / "config.yaml").write_text(config)
    (root / ".hydra" / "overrides.yaml").write_text(overrides)
    return root


def test_a_multirun_of_hydra_has_configs_and_says_what_is_missing(tmp_path: Path) -> None:
    multirun = tmp_path / "multirun" / "2026-11-29" / "12-00-00"
    for number, rate in enumerate(("0.1", "1.0e-05", "1")):
        text = f"lr: {rate}\nseed: 3\nmodel:\n  seed: ${{seed}}\n  again: ${{model.seed}}\n  name: m-${{seed}}\n"
        hydra_run(multirun / str(number), f"{text}  loop: ${{model.loop}}\n  sizes: [1, 2]\n")
    (multirun / "multirun.yaml").write_text("hydra: {}\n")
    job = multirun / ".submitit" / "17"
    job.mkdir(parents=True)
    (job / "17_submitted.pkl").write_bytes(b"")  # of the launcher; the run is the folder beside
    runs = load_runs(tmp_path)
    assert runs["path"].tolist() == [str(multirun / str(number)) for number in range(3)]
    assert runs["lr"].tolist() == [0.1, 1e-05, 1.0]
    assert runs["model.again"].tolist() == [3, 3, 3]
    assert runs["model.name"].tolist() == ["m-${seed}"] * 3
    assert runs["model.sizes"].tolist() == [[1, 2]] * 3
    assert runs.attrs["varying"] == ["lr"]
    assert runs["state"].isna().all()
    assert set(runs["reason"]) == {"a run of Hydra; not known: its state; its metrics"}
    assert runs.attrs["problems"] == []
    assert load_metrics(tmp_path).empty


def test_without_its_config_the_overrides_of_a_hydra_run_are_known(tmp_path: Path) -> None:
    root = hydra_run(tmp_path / "0", "", "- optimizer.lr=0.1\n- +name=a=b\n- ~gone\n- db/user=[x]\n")
    (root / ".hydra" / "config.yaml").unlink()
    row = load_runs(tmp_path).iloc[0]
    assert (row["optimizer.lr"], row["name"], row["db.user"]) == (0.1, "a=b", ["x"])
    assert "no more than its overrides" in row["reason"]


def test_what_yaml_has_and_json_lacks_is_text(tmp_path: Path) -> None:
    hydra_run(tmp_path / "0", "since: 2020-01-01\ndays: [2020-01-02]\nraw: !!binary aGk=\n")
    row = load_runs(tmp_path).iloc[0]
    assert (row["since"], row["days"], row["raw"]) == ("2020-01-01", ["2020-01-02"], "b'hi'")


def test_ours_and_others_stand_side_by_side(make_run: MakeRun, outputs: Path) -> None:
    ours = make_run()
    hydra_run(outputs / "plain", "seed: 1\n")
    hydra_run(outputs / "never-begun-0123456789ab", "seed: 1\n")  # of ours, before its first record
    hydra_run(ours.root / "inside", "seed: 1\n")
    runs = load_runs(outputs)
    assert runs["path"].tolist() == [str(outputs / "plain"), str(ours.root)]
    assert runs["seed"].tolist() == [1, 0]
    assert load_metrics(outputs)["path"].unique().tolist() == [str(ours.root)]


class Trap:
    """What creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_nothing_that_is_read_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name in ("5_submitted.pkl", "5_0_result.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(trap)))
    call = f"!!python/object/apply:os.mkdir ['{trap}']"
    hydra_run(tmp_path / "h", f"lr: {call}\n", json.dumps([f"lr={call}"]))
    trainer = tmp_path / "t"
    trainer.mkdir()
    (trainer / "trainer_state.json").write_text("{}")
    (trainer / "training_args.bin").write_bytes(pickle.dumps(Trap(trap)))
    runs = load_runs(tmp_path)
    assert len(runs) == 3
    assert not trap.exists()
    (problem,) = runs.attrs["problems"]
    assert "config.yaml: must be YAML" in problem


def _bomb(merge: bool) -> str:
    """Returns YAML of a few lines whose aliases stand for 9^12 values."""
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 x"]
    for number in range(1, 13):
        again = ", ".join([f"*a{number - 1}"] * 9)
        lines.append(f"a{number}: &a{number} " + (f"{{<<: [{again}]}}" if merge else f"[{again}]"))
    return "\n".join(lines)


@pytest.mark.parametrize("text", [_bomb(merge=False), _bomb(merge=True), "a: &a [*a]\n"])
def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path, text: str) -> None:
    hydra_run(tmp_path / "h", text)
    runs = load_runs(tmp_path)
    (problem,) = runs.attrs["problems"]
    assert "its aliases (*name) must stand for at most 100000 values" in problem


def test_aliases_of_few_values_are_read(tmp_path: Path) -> None:
    hydra_run(tmp_path / "h", "a: &a [1, 2]\nb: *a\nc: {d: &d {x: 3}, e: {<<: *d, y: 4}}\nglob: '*.txt'\n")
    row = load_runs(tmp_path).iloc[0]
    assert (row["b"], row["c.e.x"], row["c.e.y"], row["glob"]) == ([1, 2], 3, 4, "*.txt")


def test_jobs_of_submitit(tmp_path: Path) -> None:
    for job in (3, 4, 5):
        (tmp_path / f"{job}_submitted.pkl").write_bytes(b"x")
    (tmp_path / "3_0_log.out").write_text("submitit INFO (2026) - Job completed successfully\n")
    (tmp_path / "4_0_log.out").write_text("submitit INFO - Starting\n")
    (tmp_path / "4_0_log.err").write_text("submitit ERROR - Submitted job triggered an exception\n")
    runs = load_runs(tmp_path)
    assert runs["path"].tolist() == [str(tmp_path / f"{job}_submitted.pkl") for job in (3, 4, 5)]
    assert runs["state"].tolist()[:2] == ["COMPLETED", "FAILED"]
    assert runs["state"].isna().tolist() == [False, False, True]
    assert runs["reason"].str.contains("pickles, and so not read").all()


def test_the_log_of_a_trainer(tmp_path: Path) -> None:
    history = [{"step": 10, "loss": 2.5, "epoch": 0.5}, {"step": 20, "loss": 2.0}, {"step": 20, "eval_loss": 1.9}]
    last = {"step": 20, "train_runtime": 12.5, "train_loss": 2.25}
    for step in (10, 20):
        (tmp_path / "out" / f"checkpoint-{step}").mkdir(parents=True)
        state = {"global_step": step, "max_steps": 20, "log_history": history[: step // 10 + 1], "train_batch_size": 8}
        (tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    row = load_runs(tmp_path).iloc[0]
    assert (row["step"], row["total_steps"], row["state"]) == (20, 20, "COMPLETED")
    assert (row["loss"], row["eval/loss"], row["trainer.train_batch_size"]) == (2.0, 1.9, 8)
    (tmp_path / "out" / "trainer_state.json").write_text(json.dumps(state | {"log_history": [*history, last]}))
    assert load_runs(tmp_path)["time_s"].tolist() == [12.5]
    metrics = load_metrics(tmp_path)
    assert metrics[["step", "loss"]].to_numpy().tolist() == [[10, 2.5], [20, 2.0]]
    assert metrics["path"].unique().tolist() == [str(tmp_path / "out")]


def test_events_of_tensorboard_beside_a_config_of_hydra(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    root = hydra_run(tmp_path / "run", "lr: 0.1\n")
    write_events(root / "runs" / "Nov29", [(1, "train/loss", 0.5), (2, "train/loss", 0.25), (2, "eval/loss", 0.75)])
    row = load_runs(tmp_path).iloc[0]
    assert (row["lr"], row["loss"], row["eval/loss"], row["step"]) == (0.1, 0.25, 0.75, 2)
    assert row["reason"].startswith("a run of Hydra and tensorboard")
    metrics = load_metrics(tmp_path)
    assert metrics["loss"].tolist() == [0.5, 0.25]
    assert metrics["time"][1] == pd.Timestamp(1.76e9 + 2, unit="s", tz="UTC")


def test_a_broken_event_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"garbage of some length, which is no record")
    runs = load_runs(tmp_path)
    assert len(runs) == 1
    assert "must be an event file" in runs.attrs["problems"][0]


def test_an_offline_run_of_wandb(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "wandb" / "offline-run-20261129_120000-abc123"
    (folder / "files").mkdir(parents=True)
    rows = [{"loss": 1 / (step + 1), "eval/loss": 0.5} for step in range(3)]
    data = wandb_run({"lr": 0.1, "text": "x" * 70_000}, rows)
    (folder / "run-abc123.wandb").write_bytes(data)
    row = load_runs(tmp_path).iloc[0]
    assert (row["lr"], row["state"], row["loss"], row["eval/loss"], row["step"]) == (0.1, "COMPLETED", 1 / 3, 0.5, 2)
    assert row["reason"] == "a run of wandb"
    assert load_metrics(tmp_path)["loss"].tolist() == [1.0, 0.5, 1 / 3]
    (folder / "run-abc123.wandb").write_bytes(data[:-3])
    assert load_runs(tmp_path)["state"].isna().all()
    (folder / "run-abc123.wandb").unlink()
    (folder / "files" / "config.yaml").write_text("lr:\n  desc: null\n  value: 0.2\n_wandb:\n  value: {}\n")
    (folder / "files" / "wandb-summary.json").write_text('{"loss": 0.125, "_runtime": 9, "eval": {"loss": 2}}')
    row = load_runs(tmp_path).iloc[0]
    assert (row["lr"], row["loss"], row["eval/loss"], row["time_s"]) == (0.2, 0.125, 2.0, 9.0)
