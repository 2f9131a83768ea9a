"""Supervised fine-tuning on the chosen completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Reduction = Literal["token_mean", "sequence_sum", "sequence_mean"]


@dataclass(frozen=True)
class SFT:
    """Negative log-likelihood of the completion tokens, to be divided by the denominator of the whole optimizer step.

    Dividing by that of the step, not of each micro-batch, makes the loss independent of how the step is split into
    micro-batches.

    Attributes:
        reduction: `token_mean` is the mean over all tokens; `sequence_sum` the mean over the completions of their
            sums, as in the DPO reference; `sequence_mean` the mean over the completions of their means.
        train_on_inputs: Whether prompts, and what comes between two responses, count as completions: nothing is masked.
    """

    reduction: Reduction = "token_mean"
    train_on_inputs: bool = False

    def __call__(self, logps: Tensor, tokens: Tensor) -> Tensor:
        """Returns the summed loss of a batch, a scalar of the type of `logps`.

        Args:
            logps: (B,) float32 or wider, log-probability of each completion, summed over its tokens.
            tokens: (B,) int64, number of tokens of each completion, at least 1.
        """
        return -(logps / tokens if self.reduction == "sequence_mean" else logps).sum()

    def denominator(self, tokens: Tensor) -> float:
        """Returns what the summed loss of a batch is divided by: the sum of its tokens, (B,) int64, or B."""
        return float(tokens.sum()) if self.reduction == "token_mean" else float(len(tokens))
