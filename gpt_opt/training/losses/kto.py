"""Kahneman-Tversky Optimization (Ethayarajh et al. 2024, "KTO", arXiv 2402.01306): unpaired preferences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_opt.training.losses.pairs import TIE, PairLogps, PreferenceLoss, with_rewards


@dataclass(frozen=True)
class ExampleLoss:
    """What a loss says of a batch of unpaired preferences.

    Attributes:
        losses: (B,) float32 or wider, to be averaged over the examples of an optimizer step.
        rewards: (B,) of the type of the losses, detached.
        correct: (B,) bool, whether the reward is on the right side of the reference point by `TIE` or more.
    """

    losses: Tensor
    rewards: Tensor
    correct: Tensor


@dataclass(frozen=True)
class KTO:
    """w_D (1 - sigmoid(beta (r - z))) for desirable completions, w_U (1 - sigmoid(beta (z - r))) for others (eq. 7).

    r is a completion's log-ratio. z, the reference point, estimates the divergence of the policy from the reference as
    the mean log-ratio of mismatched completions, under prompts that are not theirs, at least 0; no gradient goes
    through it.

    Attributes:
        beta: Strength of the pull towards the reference, above 0.
        desirable_weight: w_D, above 0.
        undesirable_weight: w_U, above 0.
    """

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __call__(self, logps: Tensor, reference: Tensor, desirable: Tensor, z: Tensor) -> ExampleLoss:
        """Returns losses and rewards of a batch.

        Args:
            logps: (B,) float32 or wider, summed log-probabilities of the completions under the policy.
            reference: (B,), likewise under the reference.
            desirable: (B,) bool.
            z: The reference point, a scalar of the same type.
        """
        ratios = logps - reference
        distance = torch.where(desirable, ratios - z.detach(), z.detach() - ratios)
        good, bad = (ratios.new_tensor(weight) for weight in (self.desirable_weight, self.undesirable_weight))
        weights = torch.where(desirable, good, bad)
        losses = weights * torch.sigmoid(-self.beta * distance)
        return ExampleLoss(losses, self.beta * ratios.detach(), self.beta * distance.detach() >= TIE)


def reference_point(mean_log_ratio: Tensor) -> Tensor:
    """Returns KTO's z from the mean log-ratio of mismatched completions: a divergence is never negative.

    Args:
        mean_log_ratio: A scalar, float32 or wider, whose type z has.
    """
    return mean_log_ratio.detach().clamp(min=0)


@dataclass(frozen=True)
class KTOPair:
    """KTO over pairs, with the reference point of each side taken from the completions of the other side.

    (1 - sigmoid(beta (r_chosen - z_rejected)) + 1 - sigmoid(beta (z_chosen - r_rejected))) / 2, where z is the mean
    log-ratio of one side's completions, at least 0. That mean is over the batch of this call: over a micro-batch of one
    process, as in TRL, which had the loss up to version 0.9. Unlike there, no gradient goes through z, as eq. 7 has it.

    Attributes:
        beta: Strength of the pull towards the reference, above 0.
    """

    beta: float

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        """Returns losses and rewards of a batch.

        Raises:
            ValueError: If the reference's log-probabilities are missing.
        """
        chosen, rejected = ratios = logps.log_ratios()
        of_chosen, of_rejected = reference_point(chosen.mean()), reference_point(rejected.mean())
        losses = torch.sigmoid(self.beta * (of_rejected - chosen)) + torch.sigmoid(self.beta * (rejected - of_chosen))
        return with_rewards(losses / 2, self.beta, ratios)
