"""Log-probabilities of given tokens and divergence of two models, in float32 without a float32 copy of the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that no loss looks at."""

_CHUNK_BYTES = 1 << 25


class Rows(Protocol):
    """Logits (M, V) of any float type, or what gives some rows of them when asked."""

    @property
    def shape(self) -> Any:
        """(M, V)."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""

    @property
    def device(self) -> torch.device:
        """Of the rows."""

    def __getitem__(self, part: slice, /) -> Tensor:
        """Returns some rows, (rows, V), in `dtype`."""


def row_chunks(shape: Sequence[int]) -> Iterator[slice]:
    """Yields the rows of logits (M, V) that are worked on at a time."""
    rows, width = shape
    step = max(1, _CHUNK_BYTES // (width * 4))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def working_type(dtype: torch.dtype) -> torch.dtype:
    """Returns the type that is computed with, for logits of a type."""
    return torch.promote_types(dtype, torch.float32)


class _TokenLogps(torch.autograd.Function):
    """log softmax(logits)[label] row by row; of the full width only the gradient itself is ever allocated."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        working = working_type(logits.dtype)
        normalizer = torch.empty(logits.shape[0], dtype=working, device=logits.device)
        for part in row_chunks(logits.shape):
            normalizer[part] = torch.logsumexp(logits[part].to(working), dim=-1)
        chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1).to(working)
        ctx.save_for_backward(logits, labels, normalizer)
        return chosen - normalizer

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, labels, normalizer = ctx.saved_tensors
        working, result = working_type(logits.dtype), torch.empty_like(logits)
        for part in row_chunks(logits.shape):
            scale = grads[0][part].unsqueeze(-1)
            block = torch.exp(logits[part].to(working) - normalizer[part].unsqueeze(-1)).mul_(-scale)
            block.scatter_add_(-1, labels[part].unsqueeze(-1), scale.to(block.dtype))
            result[part] = block
        return result, None


def logps_of_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns what `token_logps` does, of logits (M, V) and labels (M,) int64: (M,) in float32 or wider."""
    known = labels != IGNORED
    flat: Tensor = _TokenLogps.apply(logits, labels.masked_fill(~known, 0))  # type: ignore[no-untyped-call]
    return flat * known


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the log-probability of each label under the logits of the same position.

    Args:
        logits: (B, T, V), position t predicting label t (already shifted), any float type.
        labels: (B, T) int64, token ids; `IGNORED` where no token is predicted.

    Returns:
        (B, T) in float32 (float64 for float64 logits), 0 where the label is `IGNORED`.
    """
    return logps_of_rows(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)).view(labels.shape)


def kl_of_rows(policy: Rows, reference: Rows, labels: Tensor) -> Tensor:
    """Returns KL(policy || reference) of the next-token distribution at each place.

    Exact over the vocabulary; the contexts are those of the data, not samples of the policy. Where the widths differ,
    as families pad their vocabulary to different ones, each model is normalised over its own, and the sum goes over the
    tokens that both have.

    Args:
        policy: Logits, (M, V), any float type.
        reference: Logits, (M, W), likewise.
        labels: (M,) int64.

    Returns:
        (M,) in nats, in float32 or wider, at least 0 up to rounding; 0 where the label is `IGNORED`.
    """
    working, common = working_type(policy.dtype), min(policy.shape[-1], reference.shape[-1])
    result = torch.zeros(labels.shape, dtype=working, device=policy.device)
    for part in row_chunks(policy.shape):
        mine = torch.log_softmax(policy[part].to(working), dim=-1)[:, :common]
        theirs = torch.log_softmax(reference[part].to(working), dim=-1)[:, :common]
        result[part] = (mine.exp() * (mine - theirs)).sum(-1)
    return result * (labels != IGNORED)
