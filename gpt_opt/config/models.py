"""What must hold for the weights of the models, their types and where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.config.losses import has_reference, keeps_reference
from gpt_opt.errors import Problem

Config = Mapping[str, Any]

ALL_LINEAR = "all-linear"
"""Value of `lora.target_modules` for every linear module but the output, in PEFT's words."""


def weight_problems(config: Config) -> Iterator[Problem]:
    """Checks that the types of the weights can be trained with and that each is used."""
    model, lora = config["model"], config["lora"]
    policy = model.get("policy_dtype")
    reference = model.get("reference_dtype", policy)
    if reference != policy and not keeps_reference(config):
        why = "with lora the base weights are the reference" if has_reference(config) else "the loss has no reference"
        yield Problem(
            "model.reference_dtype", f"is {reference}, but would be ignored: {why}", "leave it at its default"
        )
    if policy == "float16" and (not lora or lora.get("bias", "none") != "none"):
        trained = f"lora.bias={lora['bias']} trains some of them" if lora else "all weights are trained"
        yield Problem(
            "model.policy_dtype",
            f"must be float32 or bfloat16 where {trained}: float16 loses their updates; but is float16",
            "for float16 activations: model.policy_dtype=float32 training.training_params.mixed_precision=fp16",
        )
    mixed = config["training"]["training_params"]["mixed_precision"]
    attention = model.get("attn_implementation") or ""
    if attention.startswith("flash_attention") and policy == "float32" and mixed == "no":
        yield Problem(
            "model.attn_implementation",
            f"{attention} computes in 16 bits, but policy_dtype is float32 and mixed_precision is no",
            "set model.policy_dtype=bfloat16, or training.training_params.mixed_precision=bf16",
        )


def adapters_alone(key: str, name: str) -> Problem:
    """Returns what to say where a whole model is needed, but `name`, the value of `key`, holds adapters."""
    problem = f"must be a whole model, but {name!r} holds adapters alone"
    return Problem(key, problem, f"merge them first: gptopt merge {name}")


def adapter_problems(config: Config) -> Iterator[Problem]:
    """Checks that no folder to load a model from is a checkpoint of adapters."""
    model, loss = config["model"], config["loss"]
    named = {
        "model.name_or_path": model.get("name_or_path"),
        "model.archive": model.get("archive"),
        "loss.ref_model_id": loss.get("ref_model_id"),
    }
    for key, name in named.items():
        if name is not None and (Path(name) / "adapter_config.json").is_file():
            yield adapters_alone(key, name)
