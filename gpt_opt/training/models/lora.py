"""Low-rank adapters through PEFT: where they go by default, and what is said when they cannot go there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gpt_opt.config.checks.models import ALL_LINEAR
from gpt_opt.errors import ConfigError, Problem

_QUERY_AND_VALUE = ("q_proj", "v_proj")
_FUSED = ("query_key_value",)

TARGET_MODULES: dict[str, tuple[str, ...]] = {
    "bloom": _FUSED,
    "codegen": ("qkv_proj",),
    "falcon": _FUSED,
    "gemma": _QUERY_AND_VALUE,
    "gemma2": _QUERY_AND_VALUE,
    "gemma3_text": _QUERY_AND_VALUE,
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "gpt_neo": _QUERY_AND_VALUE,
    "gpt_neox": _FUSED,
    "gptj": _QUERY_AND_VALUE,
    "llama": _QUERY_AND_VALUE,
    "mistral": _QUERY_AND_VALUE,
    "mixtral": _QUERY_AND_VALUE,
    "mpt": ("Wqkv",),
    "olmo": _QUERY_AND_VALUE,
    "olmo2": _QUERY_AND_VALUE,
    "opt": _QUERY_AND_VALUE,
    "phi": _QUERY_AND_VALUE,
    "phi3": ("qkv_proj",),
    "qwen2": _QUERY_AND_VALUE,
    "qwen3": _QUERY_AND_VALUE,
    "smollm3": _QUERY_AND_VALUE,
    "stablelm": _QUERY_AND_VALUE,
}
"""Modules that get adapters by default, by `model_type`: queries and values, as in section 4.2 of the paper (Hu et al.
2021, arXiv 2106.09685), or the one module that holds them where they are fused."""


def add_adapters(model: PreTrainedModel, lora: Mapping[str, Any]) -> PreTrainedModel:
    """Wraps a model with low-rank adapters; only they, and the biases that `lora.bias` names, are trained.

    Args:
        model: The base; its weights stay what they are, and its modules become those of the result.
        lora: The group `lora`.

    Raises:
        ConfigError: If a target module does not exist, or PEFT refuses the settings.
    """
    from peft import LoraConfig, get_peft_model

    targets = _targets(model, lora["target_modules"])
    transposed = any(isinstance(module, Conv1D) for name, module in model.named_modules() if _is_one(name, targets))
    try:
        settings = LoraConfig(**{**lora, "target_modules": targets}, fan_in_fan_out=transposed)
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that it has given up.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            return cast("PreTrainedModel", get_peft_model(model, settings))
    except (ValueError, TypeError, AttributeError) as error:  # the last of a model that cannot generate
        raise ConfigError([Problem("lora", f"PEFT refuses these settings: {error}")]) from error


def _targets(model: PreTrainedModel, chosen: Sequence[str] | None) -> list[str]:
    """Returns the names of the modules to adapt, each of which exists."""
    family = model.config.model_type
    if chosen == ALL_LINEAR:
        return _linear(model, without=model.get_output_embeddings())
    if chosen is None:
        if family not in TARGET_MODULES:
            problem = f"null has no default for the model family {family!r}"
            raise ConfigError([Problem("lora.target_modules", problem, _choice(model))])
        chosen = TARGET_MODULES[family]
    names = [name for name, _ in model.named_modules()]
    absent = [target for target in chosen if not any(_is_one(name, [target]) for name in names)]
    if absent:
        problem = f"must name modules of the model ({family}), but it has no {', '.join(absent)}"
        raise ConfigError([Problem("lora.target_modules", problem, _choice(model))])
    return list(chosen)


def _is_one(name: str, targets: Sequence[str]) -> bool:
    """Returns whether PEFT takes the module `name` for one of `targets`: the whole path, or its end."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _linear(model: PreTrainedModel, without: nn.Module | None = None) -> list[str]:
    named = [(name, module) for name, module in model.named_modules() if module is not without]
    return sorted({name.rpartition(".")[2] for name, module in named if isinstance(module, (nn.Linear, Conv1D))})


def _choice(model: PreTrainedModel) -> str:
    return f"its linear modules are {', '.join(_linear(model))}; null takes the default of the model family"
