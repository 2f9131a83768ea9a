"""What a loss over pairs is given and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

TIE = 1e-6
"""Margins of rewards smaller than this, in absolute value, are ties, which count as wrong.

Equal models differ by that much where float32 computes them in two ways, as with DoRA before its first step. Models of
16 bits may differ by more, which is not taken for a tie; where they compute alike their sums are equal all the same.
"""


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of the completions of a batch of pairs, summed over the completion's tokens.

    Each is (B,) float32, or float64 of a model of that type; the numbers of tokens are (B,) int64.

    Attributes:
        chosen: Of the chosen completions under the policy.
        rejected: Of the rejected completions under the policy.
        chosen_tokens: Number of tokens of the chosen completions, at least 1.
        rejected_tokens: Number of tokens of the rejected completions, at least 1.
        reference_chosen: Of the chosen completions under the reference; None without one.
        reference_rejected: Of the rejected completions under the reference; None without one.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None

    def log_ratios(self, reference_free: bool = False) -> tuple[Tensor, Tensor]:
        """Returns log policy - log reference of chosen and rejected completions, each (B,) of their type.

        Args:
            reference_free: Leave the reference out.

        Raises:
            ValueError: If the reference's log-probabilities are missing and `reference_free` is false.
        """
        if reference_free:
            return self.chosen, self.rejected
        if self.reference_chosen is None or self.reference_rejected is None:
            raise ValueError("the loss compares the policy with a reference, but got no reference log-probabilities")
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected


@dataclass(frozen=True)
class PreferenceLoss:
    """What a preference loss says of a batch of pairs.

    Attributes:
        losses: (B,) of the type of `PairLogps.chosen`, to be averaged over the pairs of an optimizer step.
        rewards_chosen: (B,) likewise, detached.
        rewards_rejected: (B,) likewise, detached.
    """

    losses: Tensor
    rewards_chosen: Tensor
    rewards_rejected: Tensor

    @property
    def margins(self) -> Tensor:
        """By how much the chosen completions have the higher rewards, (B,) of their type."""
        return self.rewards_chosen - self.rewards_rejected

    @property
    def correct(self) -> Tensor:
        """Whether they do, by `TIE` or more, (B,) bool."""
        return self.margins >= TIE


class PairLoss(Protocol):
    """A loss over pairs; one with a true attribute `reference_free` may be given no reference though there is one."""

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        """Returns losses and rewards of a batch."""


def with_rewards(losses: Tensor, beta: float, ratios: tuple[Tensor, Tensor]) -> PreferenceLoss:
    """Returns losses with rewards: beta times what the loss compares, (chosen, rejected), each (B,).

    All have one type, float32 or wider.
    """
    chosen, rejected = ratios
    return PreferenceLoss(losses, beta * chosen.detach(), beta * rejected.detach())


class RatioLoss(ABC):
    """A loss of the log-ratios of policy and reference, whose rewards are beta times those ratios.

    Attributes:
        beta: Strength of the pull towards the reference, above 0.
        reference_free: Leave the reference out.
    """

    beta: float
    reference_free: bool

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        """Returns losses and rewards of a batch.

        Raises:
            ValueError: If the reference's log-probabilities are missing and `reference_free` is false.
        """
        chosen, rejected = logps.log_ratios(self.reference_free)
        return with_rewards(self._losses(chosen, rejected, logps), self.beta, (chosen, rejected))

    @abstractmethod
    def _losses(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        """Returns the losses (B,) of pairs with these log-ratios, each (B,)."""
