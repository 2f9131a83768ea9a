"""Post-training YAMLs in the words of TRL and transformers become experiments that are the same training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_opt.cli import main
from gpt_opt.config.nested import flat_values
from gpt_opt.config.schema import register
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.import_config.experiment import Experiment, import_config
from gpt_opt.plan.compose.composer import Composer
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.run.resolvers import register_resolvers
from gpt_opt.sweep.overrides import to_override
from tests.conftest import CONFIG_DIR, write_pairs

register()
register_resolvers()

GUIDE: dict[str, Any] = {
    "models": [
        {"name": "small", "huggingface_id": "openai-community/gpt2", "trust_remote_code": False},
        {"name": "large", "huggingface_id": "Qwen/Qwen2.5-0.5B", "trust_remote_code": True, "torch_dtype": "bfloat16"},
    ],
    "dataset": {"name": "lab/pairs", "train_split": "train[:90%]", "eval_split": "test", "max_samples": 1000}
    | {"prompt_column": "question", "chosen_column": "chosen"},
    "post_training": {"method": "dpo", "beta": 0.3, "loss_type": "sigmoid", "label_smoothing": 0.1}
    | {"max_length": 512, "max_prompt_length": 256, "max_completion_length": 128, "truncation_mode": "keep_start"},
    "lora": {"enabled": True, "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"], "use_rslora": True},
    "training": {"output_dir": "./out", "num_train_epochs": 2, "per_device_train_batch_size": 4}
    | {"per_device_eval_batch_size": 8, "gradient_accumulation_steps": 8, "learning_rate": "5e-5", "warmup_ratio": 0.1}
    | {"lr_scheduler_type": "cosine", "weight_decay": 0.01, "optim": "adamw_torch", "adam_beta2": 0.95, "bf16": True}
    | {"gradient_checkpointing": True, "max_grad_norm": 0.5, "save_steps": 100, "eval_steps": 50, "logging_steps": 5}
    | {"save_total_limit": 3, "seed": 42, "fp16": False, "dataloader_num_workers": 4, "eval_strategy": "steps"},
    "gpu": {"device_ids": [0, 1], "use_ddp": True},
    "finetuning": {"load_best_model_at_end": True, "metric_for_best_model": "eval_rewards/accuracies"}
    | {"greater_is_better": True, "early_stopping_patience": 3, "resume_from_checkpoint": None},
    "logging": {"report_to": "none"},
}


def imported(folder: Path, tree: Any, model_index: int | None = None) -> Experiment:
    file = folder / "guide.yaml"
    # As people write it: 5e-5 without quotes.
    file.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree).replace("'5e-5'", "5e-5"))
    return import_config(file, "guide", CONFIG_DIR, model_index)


def composed(folder: Path, experiment: Experiment, *overrides: str) -> dict[str, Any]:
    (folder / "exp").mkdir(exist_ok=True)
    (folder / "exp" / "guide.yaml").write_text(experiment.text)
    path = to_override("hydra.searchpath", [f"file://{folder}"])
    return flat_values(Composer(CONFIG_DIR).compose([path, "+exp=guide", *overrides]).config)


def test_a_guide_is_the_same_training_in_our_words(tmp_path: Path) -> None:
    experiment = imported(tmp_path, GUIDE)
    params = "training.training_params"
    expected = {
        "exp_name": "guide",
        **{"model.name": "small", "model.name_or_path": "openai-community/gpt2", "model.trust_remote_code": False},
        **{"data.dataset.path": "lab/pairs", "data.dataset.split": "train[:90%]", "data.dataset.max_samples": 1000},
        **{"data.dataset.validation_split": "test", "data.dataset.prompt_column": "question"},
        **{"data.dataset.chosen_column": "chosen", "loss.name": "dpo", "loss.beta": 0.3, "loss.loss_type": "sigmoid"},
        **{"loss.label_smoothing": 0.1, f"{params}.max_length": 512, f"{params}.max_prompt_length": 256},
        **{f"{params}.max_completion_length": 128, f"{params}.truncation": "keep_start", "lora.r": 16},
        **{"lora.lora_alpha": 32, "lora.target_modules": ["q_proj"], "lora.use_rslora": True},
        **{"paths.output_dir": "./out", f"{params}.num_epochs": 2, f"{params}.max_steps": None},
        **{f"{params}.batch_size": 64, f"{params}.micro_batch_size": 4, f"{params}.eval_batch_size": 8},
        **{"optimizer.optimizer_params.lr": 5e-5, "optimizer.optimizer_params.warm_up_fraction": 0.1},
        **{"optimizer.optimizer_params.lr_schedule": "warm-up-cosine", "optimizer.optimizer_params.name": "adamw"},
        **{"optimizer.optimizer_params.weight_decay": 0.01, "optimizer.optimizer_params.betas": [0.9, 0.95]},
        **{f"{params}.mixed_precision": "bf16", f"{params}.gradient_checkpointing": True},
        **{f"{params}.max_grad_norm": 0.5, f"{params}.save_every": 100, f"{params}.eval_every": 50},
        **{f"{params}.log_every": 5, f"{params}.save_total_limit": 3, "seed": 42},
        **{"gpu.device_ids": [0, 1], "gpu.use_ddp": True, "training.finetuning.load_best_model_at_end": True},
        "training.finetuning.metric_for_best_model": "eval/rewards/accuracies",
        **{"training.finetuning.greater_is_better": True, "training.finetuning.early_stopping_patience": 3},
        "logging.logging_params.report_to": [],
    }
    config = composed(tmp_path, experiment)
    assert {key: config[key] for key in expected} == expected
    assert experiment.without_equal == ()
    assert "training.batch_size: 4 per device x 8 accumulation steps x 2 GPUs = batch_size 64" in experiment.interpreted
    for key, says in (("num_train_epochs", "fills no batch at an epoch's end"), ("warmup_ratio", "rounded down")):
        assert [text for text in experiment.interpreted if text.startswith(f"training.{key}: ") and says in text]
    other = composed(tmp_path, experiment, "model_index=1")
    assert (other["model.name_or_path"], other["model.trust_remote_code"]) == ("Qwen/Qwen2.5-0.5B", True)
    one = composed(tmp_path, imported(tmp_path, GUIDE, model_index=1))
    assert (one["model.name"], one["model.policy_dtype"], one["models"]) == ("large", "bfloat16", None)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            "model: a/b\ndataset: Anthropic/hh-rlhf\npost_training: {method: sft, max_seq_length: 256}\n"
            "training: {batch_size: 2, max_steps: 30, warmup_steps: 5, fp16: true, lr_scheduler_type: constant}\n",
            {"loss.name": "sft", "data.dataset.name": "hh", "training.training_params.max_length": 256}
            | {"training.training_params.max_steps": 30, "training.training_params.num_epochs": None}
            | {"training.training_params.mixed_precision": "fp16", "optimizer.optimizer_params.lr": 2e-5}
            | {"optimizer.optimizer_params.lr_schedule": "constant", "training.training_params.micro_batch_size": 2},
        ),
        (
            "models: [{huggingface_id: a/b}]\ndataset: {name: c/d}\npost_training: {method: KTO, desirable_weight: 2}",
            {"loss.name": "kto", "loss.beta": 0.1, "loss.desirable_weight": 2, "model.name": "a/b", "lora": {}}
            | {"training.training_params.batch_size": 8, "training.training_params.num_epochs": 3}
            | {"optimizer.optimizer_params.lr": 1e-6, "optimizer.optimizer_params.lr_schedule": "warm-up-linear"}
            | {"training.training_params.max_length": 1024, "training.training_params.max_prompt_length": 512}
            | {"optimizer.optimizer_params.warm_up_fraction": 0.0, "training.training_params.save_every": 500},
        ),
        (
            "models: [a/b]\ndataset: {name: c/d}\ndpo: {loss_type: ipo, beta: 0.2}\npeft: {lora_r: 4}\n"
            "training: {optim: rmsprop, lr_scheduler_type: constant_with_warmup, warmup_steps: 10,"
            " train_batch_size: 32, gradient_accumulation_steps: 4}\ngpus: {device_ids: [0, 1]}\n",
            {"loss.loss_type": "ipo", "loss.beta": 0.2, "lora.r": 4, "lora.lora_alpha": 8, "gpu.use_ddp": True}
            | {"optimizer.optimizer_params.name": "rmsprop", "training.training_params.batch_size": 32}
            | {"training.training_params.micro_batch_size": 4, "training.training_params.warmup_steps": 10},
        ),
        (  # no sections, as TRL's command line reads it
            "model_name_or_path: a/b\ntrust_remote_code: true\ndataset_name: c/d\nuse_peft: true\nlora_r: 4\n"
            "beta: 0.2\nloss_type: sigmoid\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 8\nbf16: true",
            {"model.name_or_path": "a/b", "model.trust_remote_code": True, "data.dataset.path": "c/d", "lora.r": 4}
            | {"loss.beta": 0.2, "training.training_params.batch_size": 16},
        ),
        (  # axolotl
            "base_model: a/b\nflash_attention: true\nrl: kto\ndatasets: [{path: c/d, split: train, type: x}]\n"
            "adapter: lora\nlora_r: 4\nlora_target_linear: true\nval_set_size: 0.05\nsequence_len: 256\n"
            "micro_batch_size: 2\ngradient_accumulation_steps: 4\nlr_scheduler: cosine\nbf16: auto\nwandb_project:\n",
            {"model.name_or_path": "a/b", "model.attn_implementation": "flash_attention_2", "loss.name": "kto"}
            | {"data.dataset.path": "c/d", "data.dataset.validation_split": 0.05, "lora.target_modules": "all-linear"}
            | {"training.training_params.max_length": 256, "training.training_params.batch_size": 8}
            | {"logging.logging_params.report_to": []},
        ),
        (  # LLaMA-Factory
            "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\nlora_rank: 4\nlora_target: all\n"
            "dataset: demos\ncutoff_len: 256\n",
            {"loss.name": "sft", "lora.r": 4, "lora.target_modules": "all-linear", "data.dataset.path": "demos"},
        ),
        ("model: a/b\ndataset: c/d\nsft: {max_seq_length: 64}", {"loss.name": "sft"}),
    ],
)
def test_other_methods_and_spellings(tree: str, expected: dict[str, Any], tmp_path: Path) -> None:
    experiment = imported(tmp_path, tree)
    config = composed(tmp_path, experiment)
    config.setdefault("lora", {})
    whose = "post_training: of dialogues the assistant's messages are learned; TRL learns all"
    assert any(text.startswith(whose) for text in experiment.interpreted) == (config["loss.name"] == "sft")
    assert {key: config[key] for key in expected} == expected


def test_what_has_no_equal_is_named_with_its_value(tmp_path: Path) -> None:
    tree = json.loads(json.dumps(GUIDE))
    tree["training"] |= {"lr_scheduler_type": "polynomial", "optim": "lion", "neftune_noise_alpha": 5, "packing": True}
    tree["post_training"] |= {"rpo_alpha": 1.0, "sync_ref_model": False}
    tree["models"][0]["revision"] = "v2"
    tree["surprise"] = {"deep": 1}
    assert set(imported(tmp_path, tree).without_equal) == {
        "models[0].revision: v2",
        "training.optim: lion (adamw takes its place)",
        "training.lr_scheduler_type: polynomial (warm-up-cosine takes its place)",
        *("training.neftune_noise_alpha: 5", "training.packing: True", "post_training.rpo_alpha: 1.0"),
        "surprise.deep: 1",
    }


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ("dataset: {name: a/b}\n", ["models: must list at least one model"]),
        ("models: [a/b]\n", ["dataset.name: must be one name on the hub, folder or file, but is None"]),
        (
            "models: [a/b]\ndataset: c/d\npost_training:\n  method: ppo\ntraining:\n  bf16: true\n  fp16: true\n",
            [
                "guide.yaml:4 post_training.method: must be one of dpo, sft, ",
                "guide.yaml:6 training.bf16: bf16 and fp16",
            ],
        ),
        (
            "models: [a/b]\ndataset: {name: c/d}\ntraining: {batch_size: 0}\n",
            ["must be an integer of at least 1, but is 0"],
        ),
        (
            "models: [a/b]\ndataset: {name: c/d}\ntraining: {learning_rate: 1e-5, lr: 1e-4}\n",
            ["says 0.0001 of optimizer.optimizer_params.lr, but another key says 1e-05"],
        ),
        (
            "models: [a/b]\ndataset: {name: c/d}\npost_training: {beta: -1}\n",
            ["loss.beta: must be a finite number above"],
        ),
        ("models: [a/b]\ndataset: {name: c/d}\nlora: {r: many}\n", ["lora.r"]),
        ("models: [a/b]\nmodels: [c/d]\n", ["guide.yaml:2: a key must be given once"]),
        ("models:\n\t- a/b\n", ["guide.yaml:2", "tab"]),
        ("", ["must hold `key: value` lines, but is empty"]),
    ],
)
def test_what_is_no_training_here_is_refused(tree: str, said: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(tmp_path, tree)
    assert [text for text in said if text not in str(caught.value)] == [], caught.value


def test_the_file_is_written_once_and_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from gpt_opt.training import run_training

    GPT2LMHeadModel(GPT2Config(vocab_size=258, n_positions=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "model"
    )
    write_pairs(tmp_path / "pairs.jsonl", 40)
    tree = {
        "models": [{"name": "tiny", "huggingface_id": str(tmp_path / "model"), "tokenizer": "bytes"}],
        "dataset": {"path": str(tmp_path / "pairs.jsonl")},
        "post_training": {"method": "dpo", "max_length": 64, "max_prompt_length": 32, "max_completion_length": 16},
        "training": {
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": 1,
            "output_dir": str(tmp_path / "out"),
        },
    }
    (tmp_path / "guide.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "exp").mkdir()
    output = tmp_path / "exp" / "mine.yaml"
    command = ["import-config", str(tmp_path / "guide.yaml"), "-o", str(output)]
    assert main(command) == 0
    assert "python run_hydra.py +exp=mine" in capsys.readouterr().err
    before = output.read_text()
    assert main(command) == 2
    assert "must be a new file, but" in capsys.readouterr().err
    assert output.read_text() == before
    final = run_training([to_override("hydra.searchpath", [f"file://{tmp_path}"]), "+exp=mine"])
    config = json.loads(RunPaths(final.parent.parent).config.read_text())
    assert (final.name, config["model"]["name"], config["exp_name"]) == ("checkpoint-1", "tiny", "mine")
