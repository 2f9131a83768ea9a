"""Attention of packed batches (`gpt_opt.training.data.packing`), for all models that take their attention by name."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gpt_opt.training.data.packing import Packed

PACKED_SDPA = "packed_sdpa"
"""`sdpa` under another name, which takes packed batches also: they come as the argument `packed` of a forward."""

ONE_BY_ONE = ("cpu",)
"""Devices on which trees are taken one after the other; others take them as one padded batch."""

_UNKNOWN = ("softcap", "s_aux", "position_bias", "cache")
"""Arguments of attention that are given to nothing here."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Packed | None = None,
    **how: Any,
) -> tuple[Tensor, Tensor | None]:
    """Returns what each token attends to, as `sdpa` of transformers, and of a packed batch each tree by itself.

    Args:
        module: The attention layer.
        query: (B, H, T, d), any float type; of a packed batch B is 1 and T is N.
        key: (B, H or fewer, T, d), of the type of query.
        value: Likewise.
        attention_mask: (B, 1, T, T), bool or of the type of query, as transformers makes it; None of a packed batch.
        packed: The batch, where it is one.
        **how: `dropout`, `scaling`, `sliding_window` and what else a model gives to its attention.

    Returns:
        (B, T, H, d) of the type of query, and no weights.

    Raises:
        NotImplementedError: If a model of a packed batch has attention of a further kind.
    """
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    if unknown := [name for name in _UNKNOWN if how.get(name) is not None]:
        raise NotImplementedError(f"packed batches are without {', '.join(unknown)} of attention")
    window = how.get("sliding_window")
    kept: dict[str, Any] = {name: how[name] for name in ("dropout", "scaling") if name in how}
    tensors = query, key, value
    if query.device.type not in ONE_BY_ONE:
        indices, back, mask = _padded(packed, query, window)
        query, key, value = (tensor[0][:, indices].transpose(0, 1) for tensor in tensors)
        output, _ = sdpa_attention_forward(module, query, key, value, mask, **kept)
        return output.flatten(0, 1)[back][None], None
    trees = zip(*(tensor.split(packed.sizes, 2) for tensor in tensors), _masks(packed, query, window), strict=True)
    outputs = [sdpa_attention_forward(module, *tree, **kept)[0] for tree in trees]
    return torch.cat(outputs, 1), None


def _allowed(branches: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """Returns whether each token looks at each other one, (..., T, T), of trees (..., T)."""
    allowed = (branches[..., None, :] == 0) | (branches[..., None, :] == branches[..., :, None])
    allowed &= torch.ones(allowed.shape[-2:], dtype=torch.bool, device=allowed.device).tril()
    if window is not None:
        allowed &= positions[..., :, None] - positions[..., None, :] < window
    return allowed


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def _masks(packed: Packed, query: Tensor, window: int | None) -> list[Tensor]:
    """Returns a mask for each tree, (1, 1, T, T): made once for all layers, of the type that SDPA computes with."""
    if (key := (query.dtype, window)) not in packed.masks:
        trees = zip(packed.branches.split(packed.sizes), packed.positions[0].split(packed.sizes), strict=True)
        packed.masks[key] = [_additive(_allowed(*tree, window), query.dtype)[None, None] for tree in trees]
    return cast("list[Tensor]", packed.masks[key])


def _padded(packed: Packed, query: Tensor, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what makes one batch of all trees, as a GPU likes it: of B trees of up to T tokens.

    Returns:
        Indices (B, T) of their tokens in N; indices (N,) back in B * T; and the mask (B, 1, T, T).
    """
    if (key := ("padded", query.dtype, window)) not in packed.masks:
        whole = torch.arange(len(packed.branches), device=query.device)
        indices, branches, positions, real = (
            pad_sequence(tensor.split(packed.sizes), batch_first=True, padding_value=padding)
            for tensor, padding in ((whole, 0), (packed.branches, -1), (packed.positions[0], 0), (whole + 1, 0))
        )
        mask = _additive(_allowed(branches, positions, window), query.dtype)[:, None]
        packed.masks[key] = indices, real.flatten().nonzero()[:, 0], mask
    return cast("tuple[Tensor, Tensor, Tensor]", packed.masks[key])


AttentionInterface.register(PACKED_SDPA, attend)
AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)
