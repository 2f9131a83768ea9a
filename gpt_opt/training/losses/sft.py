"""Supervised fine-tuning on the chosen answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SFT:
    """Negative log-likelihood of the answer tokens, to be divided by their number in the whole optimizer step.

    Dividing by the tokens of the step, not of each micro-batch, makes the loss independent of how the step is cut
    into micro-batches.
    """

    def __call__(self, logps: Tensor) -> Tensor:
        """Returns the summed loss of a batch.

        Args:
            logps: (B, T) log-probability of each token, 0 where none is predicted.
        """
        return -logps.sum()
