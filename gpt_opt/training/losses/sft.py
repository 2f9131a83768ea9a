"""Supervised fine-tuning on the chosen answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Reduction = Literal["token_mean", "sequence_sum", "sequence_mean"]


@dataclass(frozen=True)
class SFT:
    """Negative log-likelihood of the answer tokens, to be divided by the units of the whole optimizer step.

    Dividing by the units of the step, not of each micro-batch, makes the loss independent of how the step is cut
    into micro-batches.

    Attributes:
        reduction: `token_mean` is the mean over all tokens (a unit is a token); `sequence_sum` the mean over the
            answers of their sums, as in the DPO reference; `sequence_mean` the mean over the answers of their means.
    """

    reduction: Reduction = "token_mean"

    def __call__(self, logps: Tensor, tokens: Tensor) -> Tensor:
        """Returns the summed loss of a batch.

        Args:
            logps: (B,) log-probability of each answer, summed over its tokens.
            tokens: (B,) number of tokens of each answer, at least 1.
        """
        return -(logps / tokens if self.reduction == "sequence_mean" else logps).sum()

    def units(self, tokens: Tensor) -> float:
        """Returns what the summed loss of a batch counts for: its tokens or its answers."""
        return float(tokens.sum()) if self.reduction == "token_mean" else float(len(tokens))
