"""What must hold in `model.config`, the sizes of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.config.files import EMBEDDED, SHIPPED
from gpt_opt.errors import Problem


def length_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that the sequences fit the model."""
    model, params = config["model"], config["training"]["training_params"]
    positions = (model.get("config") or {}).get("n_positions")
    key = "max_length" if params["context_length"] is None else "context_length"
    if positions is not None and params[key] is not None and params[key] > positions:
        yield Problem(
            f"training.training_params.{key}",
            f"must fit the model: {key}={params[key]}, but model.config.n_positions={positions}",
            f"set {key} to {positions} or less, or raise n_positions",
        )


def number_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that sizes, which are keys of no schema, are numbers."""
    for key, value in (config["model"].get("config") or {}).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if (key in _SIZES or key in _TOKENS or "drop" in key) and not is_number and value is not None:
            yield Problem(f"model.config.{key}", f"must be a number, but is {value!r}", "write it without quotes")


def shape_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks the sizes of a model that is built here, in the words of GPT-2 or of Llama."""
    model = config["model"]
    shape = model.get("config") or {}
    for key in _SIZES:
        if shape.get(key) is not None and shape[key] < 1:
            yield Problem(f"model.config.{key}", f"must be at least 1, but is {shape[key]}")
    for key, value in shape.items():
        if "drop" in key and value is not None and not 0 <= value < 1:
            yield Problem(f"model.config.{key}", f"0 <= {key} < 1 must hold, but it is {value}")
    yield from _head_problems(shape)
    for key in _TOKENS:
        tokens, value = shape.get("vocab_size"), shape.get(key)
        if value is not None and tokens is not None and not 0 <= value < tokens:
            problem = f"must be null or a token from 0 to vocab_size - 1 = {tokens - 1}, but is {value}"
            yield Problem(f"model.config.{key}", problem)
    experts, chosen = shape.get("num_experts"), shape.get("num_experts_per_tok")
    if experts is not None and chosen is not None and chosen > experts:
        problem = f"must be at most num_experts={experts}, but is {chosen}"
        yield Problem("model.config.num_experts_per_tok", problem)
    yield from _archive_problems(shape, model.get("archive"))


def _archive_problems(shape: Mapping[str, Any], archive: str | None) -> Iterator[Problem]:
    for key, values in differences(shape, archive).items():
        here, there = map(json.dumps, values)  # as YAML says them: null, true
        if archive == EMBEDDED:
            problem = f"must be {there} with model.archive=embedded, the weights that are shipped, but is {here}"
            yield Problem(f"model.config.{key}", problem, "set model.archive=null to start from random weights")
        else:
            problem = f"must be that of the weights, {there} in {archive}/config.json, but is {here}"
            yield Problem(f"model.config.{key}", problem, f"set it to {there}")


def differences(shape: Mapping[str, Any], archive: str | None) -> dict[str, tuple[Any, Any]]:
    """Returns in which keys an architecture differs from that of saved weights, which would compute something else.

    Args:
        shape: Keys of a model's config.
        archive: `model.archive`; a folder without a config.json, or a mere file of weights, tells nothing.

    Returns:
        Value here and value there of each. Left out are dropout, initialization and special tokens, in which the two
        may differ, and the lengths and wavelengths of rotary positions, which are changed to extend the context.
    """
    if archive is None:
        return {}
    try:
        saved = json.loads(((SHIPPED if archive == EMBEDDED else Path(archive)) / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    fixed = (key for key in shape.keys() & saved.keys() if is_fixed(key, shape))
    return {key: (shape[key], saved[key]) for key in sorted(fixed) if shape[key] != saved[key]}


def is_fixed(key: str, shape: Mapping[str, Any]) -> bool:
    """Returns whether weights that were trained with one value of a key of `model.config` need that value."""
    return key not in _FREE and "drop" not in key and not (key == "n_positions" and shape.get("positions") == "rotary")


_FREE = frozenset(
    {
        *("initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"),
        *("max_position_embeddings", "rotary_base", "rope_theta", "rope_scaling", "rope_parameters"),
        *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    }
)


_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SIZES = (
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"),
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "num_experts", "num_experts_per_tok"),
    *("moe_intermediate_size", "shared_expert_intermediate_size"),
)


def _head_problems(shape: Mapping[str, Any]) -> Iterator[Problem]:
    for wide, many in (("n_embd", "n_head"), ("hidden_size", "num_attention_heads")):
        width, heads = shape.get(wide), shape.get(many)
        if width is None or heads is None or shape.get("head_dim") is not None:
            continue
        if heads < 1 or width % heads:
            yield Problem(f"model.config.{many}", f"must divide {wide}, but {width} / {heads} leaves a remainder")
        elif shape.get("positions") == "rotary" and width // heads % 2:
            problem = f"must give heads of even width with positions=rotary, but {width} / {heads} = {width // heads}"
            yield Problem(f"model.config.{many}", problem)
    heads, groups = shape.get("num_attention_heads"), shape.get("num_key_value_heads")
    if heads and groups and heads % groups:
        problem = f"must divide num_attention_heads, but {heads} / {groups} leaves a remainder"
        yield Problem("model.config.num_key_value_heads", problem)


MUP = "enable_mup_with_base_n_embd"
"""Key of `model.config` that switches muP on; `gpt_opt.training.models.mup` says what that is."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

MUP_HIDDEN: Mapping[str, tuple[str, ...]] = {
    "gpt": ("c_attn", "c_proj", "c_fc", "c_gate"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": _PROJECTIONS,
    "qwen2": _PROJECTIONS,
}
"""Model types of which muP is known, and their modules whose weights map hidden states to hidden states."""


def mup_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that model, adapters and optimizer can be trained with muP where it is asked for."""
    shape = config["model"].get("config") or {}
    base, family, key = shape.get(MUP), shape.get("model_type"), f"model.config.{MUP}"
    if base is None:
        return
    fix = "set it to null"
    if base < 1:
        yield Problem(key, f"must be null or a width of at least 1, but is {base}", fix)
    if family not in MUP_HIDDEN:
        problem = f"is known for the model types {', '.join(MUP_HIDDEN)}, but model.config.model_type is {family}"
        yield Problem(key, problem, fix)
    if config["lora"]:
        yield Problem(key, "gives learning rates to the weights of the model, but with lora adapters are trained", fix)
