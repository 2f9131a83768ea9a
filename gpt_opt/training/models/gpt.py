"""GPT: a decoder of attention and MLP blocks, with learned or rotary positions and, where asked for, muP.

Its weights are shared between the embeddings of tokens and the head. It is registered with transformers as the model
type `gpt`, so that everything that takes a causal language model takes it. What its modules take and return has the
type of their weights, under autocast that of its products of matrices; ids, positions and indices are int64.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutput

from gpt_opt.training.data.packing import Packed
from gpt_opt.training.models.mup import scale_hidden_weights, width_multiplier
from gpt_opt.training.models.packed import attend


class GPTConfig(PreTrainedConfig):
    """The shape of a GPT.

    Args:
        vocab_size: Tokens.
        n_positions: Longest sequence, tokens.
        n_embd: Width of the residual stream.
        n_layer: Blocks.
        n_head: Attention heads; divides n_embd, with rotary positions into an even width.
        positions: `learned` or `rotary`.
        mlp: `gelu` of width 4 n_embd, or `swiglu` of width 8 n_embd / 3.
        dropout: Probability, of embeddings, attention weights and the output of blocks.
        initializer_range: Standard deviation of the initial weights.
        rotary_base: Longest wavelength of rotary positions, in units of 2 pi tokens.
        enable_mup_with_base_n_embd: Base width of muP, see `gpt_opt.training.models.mup`; None is without muP.
        bos_token_id: Token before a text, if any.
        eos_token_id: Token after a text.
        pad_token_id: Token that fills up batches.
    """

    model_type = "gpt"
    attribute_map = {  # noqa: RUF012 (transformers' own)
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        positions: str = "learned",
        mlp: str = "gelu",
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        rotary_base: float = 10_000.0,
        enable_mup_with_base_n_embd: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        **others: Any,
    ) -> None:
        base = enable_mup_with_base_n_embd
        if base is not None and base < 1:
            raise ValueError(f"enable_mup_with_base_n_embd must be at least 1, or None, but is {base}")
        if n_embd % n_head or (positions == "rotary" and n_embd // n_head % 2):
            even = " into an even width, as rotary positions need" if positions == "rotary" else ""
            raise ValueError(f"n_head must divide n_embd{even}, but they are {n_head} and {n_embd}")
        if positions not in ("learned", "rotary") or mlp not in ("gelu", "swiglu"):
            raise ValueError(f"positions must be learned or rotary, mlp gelu or swiglu, but are {positions} and {mlp}")
        self.vocab_size, self.n_positions, self.n_embd = vocab_size, n_positions, n_embd
        self.n_layer, self.n_head, self.positions, self.mlp = n_layer, n_head, positions, mlp
        self.dropout, self.initializer_range, self.rotary_base = dropout, initializer_range, rotary_base
        self.enable_mup_with_base_n_embd = base
        self.bos_token_id, self.eos_token_id, self.pad_token_id = bos_token_id, eos_token_id, pad_token_id
        super().__init__(**{"tie_word_embeddings": True, "use_cache": False, **others})


def rotations(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of the angles by which `rotate` turns pairs of features, (..., T, width / 2), float64.

    In float32 the angle at position 4,000 would be wrong in its fourth digit after the point.

    Args:
        positions: Position of each token, (..., T) int64.
        width: Features of a query or key, even.
        base: Longest wavelength in units of 2 pi tokens.
    """
    half = width // 2
    rates = base ** (-torch.arange(half, device=positions.device, dtype=torch.float64) / half)
    angles = positions[..., None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns pairs of features by angles that grow with the position (Su et al. 2021, arXiv 2104.09864, eq. 34).

    Feature i makes a pair with feature i + d/2, in the angles as in the values.

    Args:
        x: Queries or keys, (..., T, d), d even, any float type.
        cos: Of the angles, (..., T, d / 2), float32 or wider, broadcast against x.
        sin: Likewise.

    Returns:
        The shape and type of x.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        width = config.n_embd // config.n_head
        self.scale = 1 / math.sqrt(width) if config.enable_mup_with_base_n_embd is None else 1 / width

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, mask: Tensor | None, packed: Packed | None
    ) -> Tensor:
        """Returns what each token attends to, (B, T, n_embd).

        Args:
            x: (B, T, n_embd).
            rotation: By which queries and keys are turned, each (B or 1, 1, T, n_embd / n_head / 2) float32; None
                is not.
            mask: (B, 1, T, T) bool, true where a token may look; None is every token up to itself.
            packed: What the one row is a packed batch of; None where there are plain ones.
        """
        batch, length, width = x.shape
        q, k, v = self.c_attn(x).view(batch, length, 3, self.config.n_head, -1).permute(2, 0, 3, 1, 4).unbind()
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        dropped = self.config.dropout if self.training else 0.0
        if packed is not None:
            y, _ = attend(self, q, k, v, None, packed, dropout=dropped, scaling=self.scale)
            return cast("Tensor", self.c_proj(y.reshape(batch, length, width)))
        y = F.scaled_dot_product_attention(q, k, v, mask, dropped, is_causal=mask is None, scale=self.scale)
        return cast("Tensor", self.c_proj(y.transpose(1, 2).reshape(batch, length, width)))


class MLP(nn.Module):
    """Two layers with a GELU, or a gated SiLU (Shazeer 2020, arXiv 2002.05202), between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        gated = config.mlp == "swiglu"
        width = int(8 * config.n_embd / 3) if gated else 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, width, bias=False)
        self.c_gate = nn.Linear(config.n_embd, width, bias=False) if gated else None
        self.c_proj = nn.Linear(width, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output, of the shape of x, (B, T, n_embd)."""
        if self.c_gate is None:
            return cast("Tensor", self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))
        return cast("Tensor", self.c_proj(F.silu(self.c_gate(x)) * self.c_fc(x)))


class Block(GradientCheckpointingLayer):
    """Attention and MLP, each behind a norm and beside a residual connection."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.RMSNorm(config.n_embd), nn.RMSNorm(config.n_embd)
        self.attn, self.mlp = Attention(config), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, mask: Tensor | None, packed: Packed | None
    ) -> Tensor:
        """Returns the residual stream after this block, (B, T, n_embd)."""
        x = x + self.dropout(self.attn(self.ln_1(x), rotation, mask, packed))
        return cast("Tensor", x + self.dropout(self.mlp(self.ln_2(x))))


class GPT(PreTrainedModel, GenerationMixin):
    """A causal language model; see `GPTConfig`."""

    config_class = GPTConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 (transformers' own)
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012 (transformers' own)

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                **({"wpe": nn.Embedding(config.n_positions, config.n_embd)} if config.positions == "learned" else {}),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": nn.RMSNorm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]
        self._scale_initial_weights()

    def _scale_initial_weights(self) -> None:
        """Divides projections into the residual stream by sqrt(2 n_layer), with muP all hidden ones by sqrt(m)."""
        for name, weight in self.named_parameters():
            if name.endswith("c_proj.weight") and not weight.is_meta:
                weight.data.div_(math.sqrt(2 * self.config.n_layer))
        scale_hidden_weights(self)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the table of tokens."""
        return self.transformer["wte"]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the table of tokens."""
        self.transformer["wte"] = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        packed: Packed | None = None,
        **others: Any,
    ) -> CausalLMOutput:
        """Returns logits, and with labels the mean cross-entropy.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), int64 or bool, 0 where a token is padding; None is none.
            position_ids: (B, T) int64; None counts the tokens that are no padding.
            labels: (B, T) int64, as input_ids, of which each is predicted from those before it; -100 is left out. They
                are shifted here, as in every causal language model of transformers.
            logits_to_keep: Last tokens that logits are wanted of; 0 is all. Or their indices, (K,) int64.
            packed: What input_ids and position_ids are of, where they are a packed batch.
            **others: `num_items_in_batch`, by which the loss is divided in place of the number of its labels; the rest
                is ignored.

        Returns:
            `logits` of (B, T or logits_to_keep, vocab_size), `loss` of () float32 or None.

        Raises:
            ValueError: If a table of positions is too short.
        """
        length, rotary = input_ids.shape[1], self.config.positions == "rotary"
        if packed is None and length > self.config.n_positions and not rotary:
            raise ValueError(f"a sequence must have at most {self.config.n_positions} tokens, but has {length}")
        positions, mask = torch.arange(length, device=input_ids.device)[None], None
        if packed is None and attention_mask is not None and not bool(attention_mask.all()):
            positions = (attention_mask.long().cumsum(1) - 1).clamp_min(0)
            causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
            # A padded token looks at itself, as a row of nothing would give no number.
            own = torch.eye(length, dtype=torch.bool, device=input_ids.device)
            mask = (causal & attention_mask.bool()[:, None, None]) | own
        positions = positions if position_ids is None else position_ids
        x = self.transformer["wte"](input_ids)
        rotation = None
        if rotary:
            width = self.config.n_embd // self.config.n_head
            cos, sin = rotations(positions, width, self.config.rotary_base)
            rotation = cos[:, None].float(), sin[:, None].float()
        else:
            x = x + self.transformer["wpe"](positions)
        x = self.transformer["drop"](x)
        for block in cast("nn.ModuleList", self.transformer["h"]):
            x = block(x, rotation, mask, packed)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # of 0 it is all
        x = self.transformer["ln_f"](x[:, kept])
        logits = self.lm_head(x / width_multiplier(self.config))
        loss = None
        if labels is not None:
            loss = ForCausalLMLoss(logits, labels[:, kept], self.config.vocab_size, **others)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Any, *_: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns what `forward` gets while it generates; nothing is cached."""
        return {"input_ids": input_ids, "attention_mask": kwargs.get("attention_mask")}


AutoConfig.register(GPTConfig.model_type, GPTConfig)
AutoModelForCausalLM.register(GPTConfig, GPT)
