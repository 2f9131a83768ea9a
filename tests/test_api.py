"""The Python API makes the runs that run_hydra.py makes."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest

from gpt_opt import api
from gpt_opt.config.schema import DPOLoss, Finetuning, Sampling, TrainingParams
from gpt_opt.config.schema_data import HfDataset, JsonlDataset, ShpDataset
from gpt_opt.errors import ConfigError, SweepError
from gpt_opt.run.paths import RunPaths, find_run_dirs
from gpt_opt.run.state import State, read_state
from gpt_opt.training import DPOConfig, PreferenceDatasetConfig, TrainingConfig, run_dpo, run_sft, run_training
from tests.conftest import Runner, write_pairs

SHAPE = ["model.archive=null", "model.config.n_layer=1", "model.config.n_embd=16", "model.config.n_head=2"]


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_fields_are_config_keys() -> None:
    groups = names(TrainingParams) | names(Finetuning) | names(Sampling)
    assert names(TrainingConfig) - {"output_dir", "seed", "lr"} == groups
    assert names(DPOConfig) - {"max_length", "max_prompt_length"} == names(DPOLoss) - {"name", "_target_"}
    assert names(PreferenceDatasetConfig) <= names(HfDataset) | names(ShpDataset) | names(JsonlDataset)


def test_configs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        DPOConfig(beta=0.1).beta = 0.2  # type: ignore[misc]


def test_sft_then_dpo_is_what_the_command_line_makes(tmp_path: Path, run_hydra: Runner) -> None:
    data = PreferenceDatasetConfig(name="jsonl", path=write_pairs(tmp_path / "pairs.jsonl"))
    train = TrainingConfig(output_dir=tmp_path / "outputs", max_steps=4, batch_size=8, save_every=2, eval_every=2)
    handlers = list(logging.getLogger().handlers)
    sft = run_sft(train_config=train, preference_config=data, overrides=SHAPE)
    assert logging.getLogger().handlers == handlers
    loss = DPOConfig(beta=0.1, max_length=64, max_prompt_length=32, label_smoothing=0.0)

    def dpo() -> Path:
        return run_dpo(sft_checkpoint=sft, train_config=train, dpo_config=loss, preference_config=data)

    final = dpo()
    assert [path.name for path in (sft, final)] == ["checkpoint-4", "checkpoint-4"]
    paths = RunPaths(final.parent.parent)
    config = json.loads(paths.config.read_text())
    assert read_state(paths).state is State.COMPLETED
    assert config["model"] == {**config["model"], "name": "tiny-gpt2", "tokenizer_name_or_path": "bytes"}
    assert config["training"]["training_params"]["max_length"] == 64
    assert "completed: " in paths.task_log.read_text()
    assert len(find_run_dirs(tmp_path / "outputs")) == 2

    committed, started = paths.summary.read_bytes(), time.perf_counter()
    assert dpo() == final
    assert time.perf_counter() - started < 5
    done = run_hydra(_as_on_the_command_line(sft, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "already complete" in done.stdout
    assert paths.summary.read_bytes() == committed


def _as_on_the_command_line(sft: Path, folder: Path) -> list[str]:
    params = "training.training_params"
    return [
        "model=hf",
        f"model.name_or_path='{sft}'",
        "model.name=tiny-gpt2",
        "model.tokenizer_name_or_path=bytes",
        "data=jsonl",
        f"data.dataset.path={folder / 'pairs.jsonl'}",
        "loss.beta=1e-1",
        *(f"{params}.{item}" for item in ("max_steps=4", "batch_size=8", "save_every=2", "eval_every=2")),
        *(f"{params}.{item}" for item in ("max_length=64", "max_prompt_length=32")),
        f"paths.output_dir={folder / 'outputs'}",
    ]


def test_epochs_take_the_place_of_the_default_number_of_steps() -> None:
    key = "training.training_params."
    assert api._training(TrainingConfig(num_epochs=1)) == {f"{key}num_epochs": 1, f"{key}max_steps": None}
    assert api._training(TrainingConfig(num_epochs=1, max_steps=3)) == {f"{key}num_epochs": 1, f"{key}max_steps": 3}


def test_one_key_with_two_values_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_length: is given twice, as 64 and as 32"):
        run_dpo("gpt2", TrainingConfig(max_length=64), DPOConfig(beta=0.1, max_length=32))


def test_what_is_no_model_no_data_and_no_config_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sft_checkpoint: must be what run_sft returned.* but is None"):
        run_dpo(None, dpo_config=DPOConfig(beta=0.1))
    with pytest.raises(ConfigError, match=r"PreferenceDatasetConfig\.name: must be an option of the group data"):
        run_sft(preference_config=PreferenceDatasetConfig(name=None))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be a TrainingConfig or None, but is a dict"):
        run_sft(train_config={"lr": 1e-3})  # type: ignore[arg-type]
    with pytest.raises(SweepError, match=r"optimizer_params\.lr: a number must be finite, but got nan"):
        run_sft(train_config=TrainingConfig(lr=float("nan")))


def test_numbers_of_numpy_are_numbers() -> None:
    settings = {**api._loss(DPOConfig(beta=np.float64(0.1))), **api._training(TrainingConfig(seed=np.int64(3)))}
    assert api._overrides(settings, more=[]) == ["loss.beta=0.1", "seed=3"]


def test_adapters_alone_are_no_start(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds adapters alone"):
        run_dpo(tmp_path, dpo_config=DPOConfig(beta=0.1))


def test_all_problems_are_told_and_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_training([f"paths.output_dir={tmp_path}", "loss.beta=0.1", "dry_run=true", "seeed=1"])
    assert "did you mean seed?" in str(caught.value)
    with pytest.raises(ConfigError, match="dry_run: must be false here"):
        run_training([f"paths.output_dir={tmp_path}", "loss.beta=0.1", "dry_run=true"])
    with pytest.raises(ConfigError, match=r"loss\.beta"):
        run_dpo("gpt2", TrainingConfig(output_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_processes_of_torchrun_are_told_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"start run_hydra\.py under torchrun"):
        run_training(["loss.beta=0.1"])
