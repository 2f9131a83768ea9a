"""A run that starts from another: named by directory, id or checkpoint, it is one run; adapters are merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_opt.records.io import read_json_object
from gpt_opt.records.provenance import recorded_inputs
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from tests.conftest import Runner

SFT = ["loss=sft", "optimizer.optimizer_params.lr=0.03", "training.training_params.max_steps=4"]


def named(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


def losses(paths: RunPaths) -> list[float]:
    rows = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    return [row["eval/loss"] for row in rows if "eval/loss" in row]


def test_a_run_starts_from_another_by_any_of_its_names(run_hydra: Runner, small: list[str], tmp_path: Path) -> None:
    assert run_hydra([*small, *SFT, "lora=lora", "seed=3"]).returncode == 0
    (folder,) = find_run_dirs(tmp_path / "outputs")
    parent, name = RunPaths(folder), named(folder)
    rest = [*(text for text in small if not text.startswith("model.archive")), *SFT]
    told = run_hydra([*rest, f"model.archive='{folder}'"])
    assert told.returncode == 0, told.stderr
    (child,) = (RunPaths(path) for path in find_run_dirs(tmp_path / "outputs") if path != folder)
    assert read_json_object(child.config)["model"]["archive"] == f"run:{name}"
    started = recorded_inputs(child)["model.archive"]
    assert started["path"] == str(parent.checkpoints / "checkpoint-4")
    assert (started["run_id"], started["attempt"], len(started["sha256"])) == (name, "1", 64)
    assert losses(child)[0] == pytest.approx(losses(parent)[-1], abs=1e-5), "base and adapters together"
    assert losses(parent)[0] - losses(parent)[-1] > 1e-2
    for other in (name, f"run:{name}", f"'{parent.checkpoints}/checkpoint-4'"):
        again = run_hydra([*rest, f"model.archive={other}"])
        assert "already complete" in again.stdout + again.stderr, other

    misfit = run_hydra([*rest, "model.config.n_embd=32", f"model.archive={name}"])
    assert misfit.returncode == 2
    assert f"model.config.n_embd: must be that of run {name}, which it starts from, 16, but is 32" in misfit.stderr
    none = run_hydra([*rest, f"model.archive=run:{name}/checkpoint-3"])
    assert "it has checkpoint-4" in none.stderr
    assert len(find_run_dirs(tmp_path / "outputs")) == 2


def test_a_run_that_is_not_there_is_refused(run_hydra: Runner, small: list[str], tmp_path: Path) -> None:
    told = run_hydra([*small, *SFT, "model.archive=run:0123456789ab"])
    assert told.returncode == 2
    assert "there is none with the id 0123456789ab" in told.stderr
    assert not (tmp_path / "outputs").exists()
    assert "must be a submitted sweep" in run_hydra([*small, *SFT, "model.archive=best:nope"], tmp_path).stderr
