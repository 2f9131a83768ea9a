"""The group `model`: types of its keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gpt_opt.config.schema.made import Named


class WeightType(StrEnum):
    """Type of weights, as torch calls it."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Attention(StrEnum):
    """What computes attention, as transformers calls it."""

    eager = "eager"
    sdpa = "sdpa"
    flex_attention = "flex_attention"
    flash_attention_2 = "flash_attention_2"
    flash_attention_3 = "flash_attention_3"


@dataclass
class ModelFromConfig(Named):
    """A model built from an architecture."""

    config: dict[str, Any]
    tokenizer_name_or_path: str
    archive: str | None
    policy_dtype: WeightType | None
    reference_dtype: WeightType | None
    attn_implementation: Attention | None


class Positions(StrEnum):
    """How a GPT tells positions apart."""

    learned = "learned"
    rotary = "rotary"


class MLPKind(StrEnum):
    """MLP of a block of GPT."""

    gelu = "gelu"
    swiglu = "swiglu"


@dataclass
class GPTArchitecture:
    """Keys of `gpt_opt.training.models.gpt.GPTConfig`."""

    model_type: str
    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    positions: Positions
    mlp: MLPKind
    dropout: float
    initializer_range: float
    rotary_base: float
    enable_mup_with_base_n_embd: int | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None


@dataclass
class GPTFromConfig(ModelFromConfig):
    """model=gpt-tiny, gpt-small, gpt-medium and gpt-large."""

    config: GPTArchitecture  # type: ignore[assignment]  # the same keys, each with its type


@dataclass
class Qwen2MoeArchitecture:
    """Keys of transformers' Qwen2MoeConfig."""

    model_type: str
    vocab_size: int
    max_position_embeddings: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    decoder_sparse_step: int
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    norm_topk_prob: bool
    qkv_bias: bool
    tie_word_embeddings: bool
    attention_dropout: float
    initializer_range: float
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None


@dataclass
class Qwen2MoeFromConfig(ModelFromConfig):
    """model=qwen2moe-small and qwen2moe-medium."""

    config: Qwen2MoeArchitecture  # type: ignore[assignment]  # the same keys, each with its type


@dataclass
class PretrainedModel(Named):
    """A model of the transformers library."""

    name_or_path: str
    tokenizer_name_or_path: str
    archive: str | None
    trust_remote_code: bool
    policy_dtype: WeightType | None
    reference_dtype: WeightType | None
    attn_implementation: Attention | None


MODEL_SCHEMAS: dict[str, type] = {
    "model/from_config": ModelFromConfig,
    "model/gpt": GPTFromConfig,
    "model/qwen2_moe": Qwen2MoeFromConfig,
    "model/pretrained": PretrainedModel,
}
"""Schema of each option, by its path below the group `schema`."""
