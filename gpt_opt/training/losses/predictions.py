"""What a model predicts where a batch has labels: log-probabilities of the labels, divergence from another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from gpt_opt.training.losses.logprob import IGNORED, kl_of_rows, logps_of_rows, row_chunks, working_type


@dataclass(frozen=True)
class Head:
    """Logits (M, V) as the product that they are, of which only a chunk is ever in memory, in float32 or wider.

    Attributes:
        states: (M, d), any float type, what the head of a model is given.
        weight: (V, d), of the head, in the type of the states.
    """

    states: Tensor
    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(M, V)."""
        return self.states.shape[0], self.weight.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the logits."""
        return working_type(self.states.dtype)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.states.device

    def __getitem__(self, part: slice) -> Tensor:
        """Returns some rows of the logits, (rows, V) in `dtype`. In 16 bits they would be off by 0.03 nats a token."""
        with torch.autocast(self.device.type, enabled=False):
            return _product(self.states[part], self.weight)


def _product(states: Tensor, weight: Tensor) -> Tensor:
    if (working := working_type(states.dtype)) == states.dtype:
        return states @ weight.T
    if states.is_cuda:
        return torch.mm(states, weight.T, out_dtype=working)
    return states.to(working) @ weight.T.to(working)


class _HeadLogps(torch.autograd.Function):
    """log softmax(states @ weight.T)[label] row by row; the backward pass computes each chunk of logits again."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        head = Head(states, weight)
        normalizer, chosen = (torch.empty(len(labels), dtype=head.dtype, device=head.device) for _ in range(2))
        for part in row_chunks(head.shape):
            logits = head[part]
            normalizer[part] = torch.logsumexp(logits, dim=-1)
            chosen[part] = logits.gather(-1, labels[part].unsqueeze(-1)).squeeze(-1)
        ctx.save_for_backward(states, weight, labels, normalizer)
        return chosen - normalizer

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        states, weight, labels, normalizer = ctx.saved_tensors
        head = Head(states, weight)
        of_states = torch.empty_like(states)
        # Where adapters are trained the head is not: it is as large as many of the layers together.
        of_weight = torch.zeros_like(weight, dtype=head.dtype) if ctx.needs_input_grad[1] else None
        with torch.autocast(head.device.type, enabled=False):
            for part in row_chunks(head.shape):
                scale = grads[0][part].unsqueeze(-1).to(head.dtype)
                block = (head[part] - normalizer[part].unsqueeze(-1)).exp_().mul_(-scale)
                block = block.scatter_add_(-1, labels[part].unsqueeze(-1), scale).to(states.dtype)
                of_states[part] = block @ weight
                if of_weight is not None:
                    of_weight += block.T @ states[part]
        return of_states, None if of_weight is None else of_weight.to(weight.dtype), None


@dataclass(frozen=True)
class Predictions:
    """What a model predicts at M places of a batch.

    Attributes:
        logits: (M, V), any float type.
        labels: (M,) int64, the tokens to come; `IGNORED` where none counts.
        shape: (R, L) of a table of the places, by rows of the batch.
        cells: (M,) int64, index of each place in that table, flattened; None where they are all of it, in order.
    """

    logits: Tensor | Head
    labels: Tensor
    shape: tuple[int, int]
    cells: Tensor | None = None

    def token_logps(self) -> Tensor:
        """Returns the log-probability of each label, (M,) in float32 or wider; 0 where it is `IGNORED`."""
        if isinstance(self.logits, Head):
            head, known = self.logits, self.labels != IGNORED
            labels = self.labels.masked_fill(~known, 0)
            return cast("Tensor", _HeadLogps.apply(head.states, head.weight, labels)) * known  # type: ignore[no-untyped-call]
        return logps_of_rows(self.logits, self.labels)

    def logps(self) -> Tensor:
        """Returns the log-probabilities summed over each row of the batch, (R,) in float32 or wider."""
        return self._by_row(self.token_logps())

    @torch.no_grad()
    def kl(self, reference: Predictions) -> Tensor:
        """Returns KL(this || reference) by `kl_of_rows`, summed over each row, (R,) in float32 or wider."""
        return self._by_row(kl_of_rows(self.logits, reference.logits, self.labels))

    def _by_row(self, values: Tensor) -> Tensor:
        rows, width = self.shape
        if self.cells is not None:  # the sum of a row does not depend on what else is in the batch
            values = values.new_zeros(rows * width).index_copy(0, self.cells, values)
        return values.view(rows, width).sum(-1)
