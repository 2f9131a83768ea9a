"""Other names of the field lead to our keys, and every answer can be typed as it stands."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from gpt_opt.config.explain import flat_keys
from gpt_opt.config.schema import register
from gpt_opt.config.suggest import OPTIONS, SYNONYMS, checkpoint_of_run, existing_path, suggestion, typed
from gpt_opt.plan.compose.hydra import Configs, HydraEngine
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR


@cache
def keys(*overrides: str) -> frozenset[str]:
    """The keys of the config with these options."""
    register()
    register_resolvers()
    config = HydraEngine(Configs(CONFIG_DIR)).load(overrides)
    return frozenset(flat_keys(cast("dict[str, Any]", OmegaConf.to_container(config))))


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("learning_rate", "1", "did you mean optimizer.optimizer_params.lr?"),
        ("training.training_params.learning_rate", "1", "did you mean optimizer.optimizer_params.lr?"),
        ("optimizer.lr", "1", "did you mean optimizer.optimizer_params.lr?"),
        ("per_device_train_batch_size", "4", "did you mean training.training_params.micro_batch_size?"),
        ("training.gradient_accumulation", "4", "did you mean training.training_params.gradient_accumulation_steps?"),
        ("num_train_epochs", "1", "did you mean training.training_params.num_epochs?"),
        ("fp16", "true", "write training.training_params.mixed_precision=fp16"),
        ("bf16", "True", "write training.training_params.mixed_precision=bf16"),
        ("bf16", "false", "write training.training_params.mixed_precision=no"),
        ("optim", "adamw_torch", "write optimizer=adamw"),
        ("lr_scheduler_type", "cosine", "write optimizer.optimizer_params.lr_schedule=warm-up-cosine"),
        ("report_to", "wandb", "write logging.logging_params.report_to=[wandb]"),
        ("model_name_or_path", "lab/gpt", "write model=hf model.name_or_path=lab/gpt"),
        ("dataset_name", "lab/pairs", "write data=hf data.dataset.path=lab/pairs"),
        ("lora.r", "16", "write lora=lora lora.r=16"),
        ("lora_r", "16", "write lora=lora lora.r=16"),
        ("peft_config.r", "16", "write lora=lora lora.r=16"),
        ("use_peft", "true", "write lora=lora"),
        ("beta", "0.1", "did you mean loss.beta?"),
        ("loss.betta", "0.1", "did you mean loss.beta?"),
        ("--dry-run", None, "write dry_run=true"),
        ("--compile", None, "write training.training_params.compile=true"),
        ("--gpus", None, "write resources.gpus_per_run=VALUE"),
        ("--optim", None, "write optimizer=OPTION"),
        ("--output-dir", "D", "write paths.output_dir=D"),
        ("--model-index", "1", "write model_index=1"),
        ("--per-device-train-batch-size", "2", "write training.training_params.micro_batch_size=2"),
    ],
)
def test_a_name_of_the_field_leads_to_our_key(name: str, value: str | None, answer: str) -> None:
    assert suggestion(name, keys(), value) == answer


def test_nothing_is_suggested_that_is_not_valid() -> None:
    assert suggestion("learning_rate", ["seed", "loss.name"]) not in ("", "did you mean optimizer.optimizer_params.lr?")
    assert "lora=" not in suggestion("lora_r", keys("lora=lora"))
    assert "--cfg job" in suggestion("load_in_4bit", keys())


def test_a_key_of_another_option_is_said_with_that_option() -> None:
    assert suggestion("loss.beta", keys("loss=sft"), "0.1") == "write loss=dpo loss.beta=0.1"
    assert suggestion("loss.reduction", keys(), "token_mean") == "write loss=sft loss.reduction=token_mean"


def test_fields_of_a_dataclass_are_known_by_the_last_part_of_their_key() -> None:
    fields = ["lr", "batch_size", "mixed_precision"]
    assert suggestion("learning_rate", fields) == "did you mean lr?"
    assert suggestion("bach_size", fields) == "did you mean batch_size?"
    assert suggestion("fp16", fields, "True") == 'write mixed_precision="fp16"'
    assert suggestion("lora_r", fields, "16") == 'write overrides=["lora=lora", "lora.r=16"]'


def test_a_path_that_is_not_there_is_answered_with_one_that_is(tmp_path: Path) -> None:
    folder = tmp_path / "run=1,x" / "checkpoints" / "checkpoint-80"
    folder.mkdir(parents=True)
    (folder.parent.parent / "state.json").touch()
    key = "model.archive"
    assert existing_path(key, folder.with_name("checkpoint-8")) == f"did you mean \"{key}='{folder}'\""
    assert existing_path(key, tmp_path / "run=1" / folder.relative_to(tmp_path / "run=1,x")).endswith(f"'{folder}'\"")
    assert existing_path(key, folder.with_name("final")) == f"{folder.parent} holds checkpoint-80"
    run = tmp_path / "run=1,x"
    assert existing_path(key, run / "a" / "b") == f"{run} holds checkpoints, state.json"
    for inside in (run, run / "checkpoints"):
        assert checkpoint_of_run(key, inside) == f"take a checkpoint of this run: \"{key}='{folder}'\""
    assert checkpoint_of_run(key, folder) == ""
    assert typed(key, Path("a/b.pt")) == f"{key}=a/b.pt"


def test_a_file_that_is_not_there_is_answered_with_one_of_its_kind(tmp_path: Path) -> None:
    for name in ("e1.json", "pairs.jsonl"):
        (tmp_path / name).touch()
    assert existing_path("path", tmp_path / "e12.jsonl") == f"{tmp_path} holds e1.json, pairs.jsonl"
    for near in ("pair.jsonl", "pairs.json"):
        assert existing_path("path", tmp_path / near) == f"did you mean path={tmp_path}/pairs.jsonl"


@pytest.mark.parametrize("option", sorted(set(OPTIONS.values())))
def test_an_option_has_the_keys_that_it_is_named_for(option: str) -> None:
    assert {key for key, other in OPTIONS.items() if other == option} <= keys(option)


def test_every_name_leads_somewhere() -> None:
    known = keys() | set(OPTIONS)
    lost = {name: target for name, target in SYNONYMS.items() if target.partition("=")[0] not in known}
    assert {target.partition(",")[0] for target in lost.values()} <= {"+exp=NAME", "--cfg job", "-m"}
    for target in {target for target in SYNONYMS.values() if "=" in target[:-1] and "NAME" not in target}:
        assert keys(*shlex.split(target))


def test_the_linear_schedule_of_transformers_is_not_taken_for_ours() -> None:
    found = suggestion("lr_scheduler_type", keys(), "linear")
    assert found.endswith("lr_schedule=warm-up-linear; the schedule linear is another: 1 / (steps + 1)")
