"""Odds Ratio Preference Optimization (Hong et al. 2024, "ORPO", arXiv 2403.07691): no reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gpt_opt.training.losses.pairs import PairLogps, PreferenceLoss, with_rewards

_CERTAIN = -1e-7
"""Largest log-probability of a token, on average, that has finite odds in float32."""


def log_odds(average_logps: Tensor) -> Tensor:
    """Returns log(p / (1 - p)) for p = exp(average_logps), with p kept just below 1, in the shape and type of them."""
    logps = average_logps.clamp(max=_CERTAIN)
    split = -math.log(2)  # on either side of it the other formula loses digits
    near_one = torch.log(-torch.expm1(logps.clamp(min=split)))
    near_zero = torch.log1p(-torch.exp(logps.clamp(max=split)))
    return logps - torch.where(logps > split, near_one, near_zero)


@dataclass(frozen=True)
class ORPO:
    """-a_chosen - beta log sigmoid(log odds(a_chosen) - log odds(a_rejected)).

    a is the average log-probability of a completion's tokens. Each completion counts alike, whatever its length, in
    both terms (eq. 2 and 6). Rewards are beta times the averages.

    Attributes:
        beta: Weight of the odds ratio, lambda in the paper; above 0.
        sft_term: Whether the first term, the likelihood of the chosen completion, is in the loss, as the paper has it.
        reference_free: The reference plays no part, as in a DPO with this setting.
    """

    beta: float
    sft_term: bool = True
    reference_free: ClassVar[bool] = True

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        """Returns losses and rewards of a batch; the reference plays no part."""
        chosen, rejected = logps.chosen / logps.chosen_tokens, logps.rejected / logps.rejected_tokens
        losses = -self.beta * logsigmoid(log_odds(chosen) - log_odds(rejected))
        if self.sft_term:
            losses = losses - chosen
        return with_rewards(losses, self.beta, (chosen, rejected))
