"""The Python API makes the runs that run_hydra.py makes."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gpt_opt import api
from gpt_opt.config.schema import DPOLoss, Finetuning, Sampling, TrainingParams
from gpt_opt.config.schema.data import HfDataset, JsonlDataset, ShpDataset
from gpt_opt.errors import ConfigError, SweepError
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.state import State, read_state
from gpt_opt.training import DPOConfig, PreferenceDatasetConfig, TrainingConfig, run_dpo, run_sft, run_training
from tests.conftest import Runner, write_pairs

SHAPE = ["model.archive=null", "model.config.n_layer=1", "model.config.n_embd=16", "model.config.n_head=2"]


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_fields_are_config_keys() -> None:
    groups = names(TrainingParams) | names(Finetuning) | names(Sampling)
    own = {"run_name", "dataset_name", "tokenizer_name", "output_dir", "seed", "learning_rate", "weight_decay"}
    pretraining = {
        "tokens_processed",
        "context_length",
        "val_tokens_processed",
    }  # neither run_sft nor run_dpo does that
    assert names(TrainingConfig) - own == groups - pretraining
    lengths = {"max_length", "max_prompt_length", "max_completion_length"}
    assert names(DPOConfig) - lengths == names(DPOLoss) - {"name", "_target_"}
    data = names(HfDataset) | names(ShpDataset) | names(JsonlDataset)
    assert names(PreferenceDatasetConfig) - {"dataset_name"} <= data


def test_the_names_of_other_libraries_are_taken_for_the_own_ones() -> None:
    own = TrainingConfig(learning_rate=1e-5, micro_batch_size=2, num_epochs=1, log_every=5, run_name="x", max_length=64)
    others: dict[str, Any] = {"lr": 1e-5, "per_device_train_batch_size": 2, "num_train_epochs": 1, "logging_steps": 5}
    assert TrainingConfig(**others, wandb_run_name="x", max_seq_length=64) == own  # type: ignore[call-arg]
    assert DPOConfig(dpo_beta=0.1, ref_model=None) == DPOConfig()  # type: ignore[call-arg]
    data = PreferenceDatasetConfig(dataset_name="hh", split="train[:9]", max_samples=3)
    given: dict[str, Any] = {"name": "hh", "train_split": "train[:9]", "max_train_samples": 3}
    assert PreferenceDatasetConfig(**given) == data
    assert DPOConfig().beta == 0.1


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (TrainingConfig, {"learning_rat": 1}, r"TrainingConfig\.learning_rat: is not a field of it\n.*learning_rate\?"),
        (TrainingConfig, {"fp16": True}, r"TrainingConfig\.fp16: .*\n +write mixed_precision=\"fp16\""),
        (TrainingConfig, {"lora_r": 8}, r'TrainingConfig\.lora_r: .*\n +write overrides=\["lora=lora", "lora\.r=8"\]'),
        (TrainingConfig, {"zzz": 1}, r"zzz: is not a field of it\n +valid here: add_bos, batch_size, "),
        (
            TrainingConfig,
            {"lr": 1, "learning_rate": 1},
            r"given twice, as lr and as learning_rate\n +give learning_rate",
        ),
        (DPOConfig, {"betta": 1, "zzz": 1}, r"2 problems:\n.*DPOConfig\.betta: .*\n +did you mean beta\?"),
        (PreferenceDatasetConfig, {"colum": 1}, r"PreferenceDatasetConfig\.colum: is not a field of it"),
    ],
)
def test_an_unknown_field_is_answered_like_a_config_key(kind: type, given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**given)


def settings(**given: Any) -> dict[str, Any]:
    return api._data(PreferenceDatasetConfig(**given), None)


def test_a_data_set_is_an_option_or_what_option_hf_or_its_own_reads() -> None:
    assert settings(dataset_name="Anthropic/hh-rlhf", split="train") == {"data": "hh", "data.dataset.split": "train"}
    assert settings(dataset_name="trl-lib/x") == {"data": "hf", "data.dataset.path": "trl-lib/x"}
    assert settings(dataset_name="jsonl", path="a") == settings(name="jsonl", path="a")
    assert settings(path="a") == {"data": "hf", "data.dataset.path": "a"}
    config = TrainingConfig(dataset_name="pydoc")
    assert api._data(None, config) == {"data": "pydoc"}
    assert api._data(PreferenceDatasetConfig(dataset_name="hh"), config) == {"data": "hh"}
    with pytest.raises(ConfigError, match=r"dataset_name: is 'a/b', no option of the group data, beside path=c"):
        settings(dataset_name="a/b", path="c")


def test_a_start_is_a_hub_id_a_folder_a_run_or_a_file_of_weights(tmp_path: Path) -> None:
    run = RunPaths(tmp_path / "run")
    newest = run.checkpoints / "checkpoint-2"
    newest.mkdir(parents=True)
    run.config.write_text(json.dumps({"model": {"name": "short", "tokenizer_name_or_path": "bytes"}}))
    save_file({"a": torch.zeros(1)}, newest / "model.safetensors")
    weights = tmp_path / "weights.pt"
    weights.touch()
    of_run = {"model": "hf", "model.name_or_path": newest, "model.name": "short"}
    tokenizer = {"model.tokenizer_name_or_path": "bytes"}
    assert api._model("x", run.root, None) == api._model("x", newest, None) == of_run | tokenizer
    assert api._model("x", "a/b", "bytes") == {"model": "hf", "model.name_or_path": "a/b"} | tokenizer
    assert api._model("x", weights, None) == {"model.archive": weights}


@pytest.mark.parametrize("start", ["no/such/folder", "nowhere.pt", "./nowhere", Path("no/where")], ids=str)
def test_a_start_that_is_not_there_is_refused_before_a_run_directory_exists(start: str | Path, tmp_path: Path) -> None:
    config = TrainingConfig(output_dir=tmp_path / "outputs")
    with pytest.raises(ConfigError, match=r"sft_checkpoint: must be .* does not exist"):
        run_dpo(sft_checkpoint=start, train_config=config, dpo_config=DPOConfig())
    with pytest.raises(ConfigError, match=r"pretrain_checkpoint: must be .* does not exist"):
        run_sft(pretrain_checkpoint=start, train_config=config)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_shape_are_refused_before_a_run_directory_exists(tmp_path: Path) -> None:
    weights, text = tmp_path / "weights.pt", tmp_path / "text.pt"
    torch.save({"model": {"transformer.wte.weight": torch.zeros(4, 4)}}, weights)
    text.write_text("no weights")
    config = TrainingConfig(output_dir=tmp_path / "outputs")
    for start, said in {
        weights: "must fit the model, but: size mismatch for transformer.wte",
        text: "must hold weights",
    }.items():
        with pytest.raises(ConfigError, match=f"model.archive: .*{said}"):
            run_dpo(sft_checkpoint=start, train_config=config, dpo_config=DPOConfig())
    assert not (tmp_path / "outputs").exists()


def test_both_names_of_an_argument_are_refused() -> None:
    data = PreferenceDatasetConfig(dataset_name="pydoc")
    with pytest.raises(ConfigError, match="dataset_config: is given twice, as dataset_config and as preference_config"):
        run_sft(dataset_config=data, preference_config=data)


def test_configs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        DPOConfig(beta=0.1).beta = 0.2  # type: ignore[misc]


def test_sft_then_dpo_is_what_the_command_line_makes(tmp_path: Path, run_hydra: Runner) -> None:
    data = PreferenceDatasetConfig(dataset_name="jsonl", path=write_pairs(tmp_path / "pairs.jsonl"))
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
    with pytest.raises(ConfigError, match=r"data\.dataset\.path: is mandatory"):
        run_sft(preference_config=PreferenceDatasetConfig())
    with pytest.raises(ConfigError, match="must be a TrainingConfig or None, but is a dict"):
        run_sft(train_config={"lr": 1e-3})  # type: ignore[arg-type]
    with pytest.raises(SweepError, match=r"optimizer_params\.lr: a number must be finite, but got nan"):
        run_sft(train_config=TrainingConfig(learning_rate=float("nan")))


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
