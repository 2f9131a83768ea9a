"""What must hold between the types of a model's weights and how it is trained; pure functions of plain containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.config.losses import has_reference
from gpt_opt.errors import Problem

Config = Mapping[str, Any]


def weight_problems(config: Config) -> Iterator[Problem]:
    """Checks that the types of the weights can be trained with and that each is used."""
    model, loss, lora = config["model"], config["loss"], config["lora"]
    policy = model.get("policy_dtype")
    reference = model.get("reference_dtype", policy)
    if reference != policy and (lora or not has_reference(loss)):
        why = "with lora the base weights are the reference" if has_reference(loss) else "the loss has no reference"
        yield Problem(
            "model.reference_dtype", f"is {reference}, but would be ignored: {why}", "leave it at its default"
        )
    if policy == "float16" and not lora:
        yield Problem(
            "model.policy_dtype",
            "must be float32 or bfloat16 where all weights are trained: float16 loses their updates; but is float16",
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
