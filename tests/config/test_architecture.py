"""What must hold in `model.config`: shapes of GPT and of Qwen2's mixtures of experts, and what muP can be used with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.schema import register
from gpt_opt.run.resolvers import plain_config, register_resolvers
from tests.conftest import CONFIG_DIR

register()
register_resolvers()

MUP = "enable_mup_with_base_n_embd"


def config(model: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return plain_config(compose("config", overrides=[f"model={model}", "loss.beta=0.1"]))


@pytest.fixture(scope="module")
def good() -> dict[str, dict[str, Any]]:
    return {model: config(model) for model in ("gpt-tiny", "qwen2moe-small")}


def problems(good: dict[str, Any], shape: dict[str, Any]) -> list[str]:
    changed = copy.deepcopy(good)
    changed["model"]["config"] |= shape
    return [str(problem) for problem in constraint_problems(changed)]


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        ("gpt-tiny", {"n_layer": 0}, "n_layer: must be at least 1, but is 0"),
        ("gpt-tiny", {"n_head": 3}, "n_head: must divide n_embd, but 128 / 3 leaves a remainder"),
        ("gpt-tiny", {"n_embd": 12}, "n_head: must give heads of even width with positions=rotary, but 12 / 4 = 3"),
        ("gpt-tiny", {"dropout": 1.0}, "dropout: 0 <= dropout < 1 must hold, but it is 1.0"),
        ("gpt-tiny", {"n_positions": 128}, "max_length: must fit the model: max_length=192"),
        ("gpt-tiny", {"eos_token_id": 258}, "eos_token_id: must be null or a token from 0 to vocab_size - 1 = 257"),
        ("gpt-tiny", {MUP: 0}, f"{MUP}: must be null or a width of at least 1, but is 0"),
        (
            "qwen2moe-small",
            {"num_attention_heads": 7, "num_key_value_heads": 7},
            "num_attention_heads: must divide hidden_size, but 512 / 7",
        ),
        (
            "qwen2moe-small",
            {"num_key_value_heads": 3},
            "must divide num_attention_heads, but 8 / 3",
        ),
        ("qwen2moe-small", {"num_experts": 1}, "num_experts_per_tok: must be at most num_experts=1, but is 2"),
        ("qwen2moe-small", {MUP: 64}, "gpt, gpt2, llama, qwen2, but model.config.model_type is qwen2_moe"),
    ],
)
def test_a_shape_that_cannot_be_is_named(good: dict[str, Any], model: str, shape: dict[str, Any], says: str) -> None:
    (problem,) = problems(good[model], shape)
    assert says in problem


def test_a_table_of_positions_takes_heads_of_odd_width(good: dict[str, Any]) -> None:
    assert problems(good["gpt-tiny"], {"n_embd": 12, "positions": "learned"}) == []


def test_mup_is_refused_with_adapters() -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        overrides = ["model=gpt-tiny", "loss.beta=0.1", "lora=lora", f"model.config.{MUP}=64"]
        found = constraint_problems(plain_config(compose("config", overrides=overrides)))
    assert ["but with lora adapters are trained" in str(problem) for problem in found] == [True]
