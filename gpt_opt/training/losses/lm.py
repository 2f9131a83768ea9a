"""Pretraining: the negative log-likelihood of every token given those before it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gpt_opt.training.losses.logprob import token_logps


@dataclass(frozen=True)
class LM:
    """Cross-entropy of the next token, to be divided by the target tokens of the whole optimizer step."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the summed loss of a batch in nats, a scalar in float32 or wider.

        Args:
            logits: (B, T, V), any float type.
            labels: (B, T) int64, the token that each position predicts: they are shifted already.
        """
        return -token_logps(logits, labels).sum()
