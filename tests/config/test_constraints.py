"""Constraints between keys: each broken one is named, with the numbers; good configs pass."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from gpt_opt.config.checks.batches import accumulation_steps, batch_problems
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.checks.data import data_problems
from gpt_opt.config.explain import comment_of
from gpt_opt.config.schema import register
from gpt_opt.config.suggest import nearest
from gpt_opt.errors import ConfigError
from gpt_opt.run.resolvers import plain_config
from tests.conftest import CONFIG_DIR

register()

LORA = {"r": 8, "lora_alpha": 16, "bias": "none", "target_modules": None, "task_type": "CAUSAL_LM"} | {
    "use_rslora": False,
    "use_dora": False,
}


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return plain_config(compose("config", overrides=["loss.beta=0.1"]))


def test_a_value_that_is_missing_in_a_list_is_named_too() -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", overrides=["callbacks=[{_target_: mine.Name, size: ???}]"])
    with pytest.raises(ConfigError) as caught:
        plain_config(config)
    missing, _ = caught.value.problems
    assert [problem.where for problem in caught.value.problems] == ["callbacks[0].size", "loss.beta"]
    assert missing.fix == "give the whole list: callbacks=[...]"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training.training_params.micro_batch_size", 5, "16 / (5 x 1) = 3.2"),
        ("training.training_params.micro_batch_size", 0, "at least 1"),
        ("training.training_params.batch_size", 0, "at least 1"),
        ("training.training_params.gradient_accumulation_steps", 4, "16 / (16 x 1) = 1, but is 4"),
        ("training.training_params.max_prompt_length", 192, "max_prompt_length=192 and max_length=192"),
        ("training.training_params.max_prompt_length", 0, "0 < max_prompt_length"),
        ("training.training_params.max_length", 300, "n_positions=256"),
        ("training.training_params.max_steps", None, "exactly one of max_steps, num_epochs and n_examples"),
        ("training.training_params.num_epochs", 1.0, "exactly one of max_steps, num_epochs and n_examples"),
        ("training.training_params.max_steps", 0, "at least 1"),
        ("training.training_params.log_every", 0, "at least 1"),
        ("training.training_params.warmup_steps", -1, "at least 0"),
        ("seed", -1, "must be from 0 to 4294967295, as numpy takes it, but is -1"),
        ("seed", 2**32, "must be from 0 to 4294967295"),
        ("loss.beta", 0.0, "above 0"),
        ("loss.beta", float("nan"), "above 0"),
        ("loss.label_smoothing", 0.5, "label_smoothing < 0.5"),
        ("optimizer.optimizer_params.lr", -1.0, "at least 0"),
        ("optimizer.optimizer_params.lr", float("inf"), "finite"),
        ("optimizer.optimizer_params.lr_schedule", "cosine", "warm-up-cosine"),
        ("optimizer.optimizer_params.warm_up_fraction", 1.5, "<= 1"),
        ("optimizer.optimizer_params.warm_up_fraction", None, "both null"),
        ("optimizer.optimizer_params.betas", [0.9], "two numbers"),
        ("optimizer.optimizer_params.betas", [0.9, 1.0], "two numbers"),
        ("optimizer.optimizer_params.alpha", 1.0, "below 1"),
        ("optimizer.optimizer_params.weight_decay", -1.0, "at least 0"),
        ("model.config.n_head", 3, "must divide n_embd"),
        ("model.config.n_layer", "1", "must be a number, but is '1'"),
        ("model.archive", "/no/such/weights", "does not exist"),
        ("paths.output_dir", "/proc/version/x", "can be written to"),
        ("lora", {**LORA, "lora_dropout": -0.1}, "0 <= lora_dropout < 1 must hold, but it is -0.1"),
        ("data.dataset.max_samples", 0, "at least 1"),
        ("data.dataset.path", "/no/such/file.jsonl", "must be a file"),
        ("data.dataset.validation_split", 1.0, "< 1"),
    ],
)
def test_a_broken_constraint_is_named_with_its_values(good: dict[str, Any], key: str, value: Any, says: str) -> None:
    config = copy.deepcopy(good)
    node = config
    *above, leaf = key.split(".")
    for part in above:
        node = node[part]
    node[leaf] = value
    problems = constraint_problems(config)
    assert any(says in str(problem) for problem in problems), problems


def test_all_broken_constraints_are_named_at_once(good: dict[str, Any]) -> None:
    config = copy.deepcopy(good)
    config["loss"]["beta"] = -1.0
    config["training"]["training_params"]["max_prompt_length"] = 500
    config["optimizer"]["optimizer_params"]["lr"] = -1.0
    assert len(constraint_problems(config)) == 3


def test_the_good_config_passes(good: dict[str, Any]) -> None:
    assert constraint_problems(good) == []


def test_accumulation_follows_from_the_batch_sizes() -> None:
    params = {"batch_size": 24, "micro_batch_size": 4, "gradient_accumulation_steps": None}
    assert accumulation_steps(params, devices=2) == 3
    assert list(batch_problems(params, devices=2)) == []
    assert "24 / (4 x 4) = 1.5" in str(next(batch_problems(params, devices=4)))


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("optimizer.optimizer_params.learning_rate", "optimizer.optimizer_params.lr"),
        ("lr", "optimizer.optimizer_params.lr"),
        ("model.config.n_embdd", "model.config.n_embd"),
        ("training.max_steps", "training.training_params.max_steps"),
        ("qqqqqqqq", None),
    ],
)
def test_the_nearest_key_is_the_one_that_was_meant(wanted: str, meant: str | None) -> None:
    valid = [
        "seed",
        "model.config.n_embd",
        "model.config.n_head",
        "loss.beta",
        "optimizer.optimizer_params.lr",
        "optimizer.optimizer_params.lr_schedule",
        "training.training_params.max_steps",
        "training.training_params.warmup_steps",
    ]
    assert nearest(wanted, valid) == meant


def test_the_meaning_of_a_key_is_its_comment(tmp_path: Path) -> None:
    assert "reference model" in comment_of("loss.beta", CONFIG_DIR, {"loss": "dpo"})
    assert "random seed" in comment_of("seed", CONFIG_DIR, {})
    assert comment_of("loss.nothing", CONFIG_DIR, {"loss": "dpo"}) == ""


def test_a_folder_of_data_whose_path_is_a_pattern_is_refused(tmp_path: Path) -> None:
    dataset = {"name": "x", "path": str(tmp_path / "runs [1]" / "data"), "split": "train", "subset": None}
    Path(dataset["path"]).mkdir(parents=True)
    config = {"data": {"dataset": dataset | {"validation_split": 0.1}}}
    (problem,) = data_problems(config)
    assert "must be a folder without *, ? and [ in its path" in problem.message
    (Path(dataset["path"]) / "state.json").touch()  # saved by datasets, which reads it by its name
    assert not list(data_problems(config))
