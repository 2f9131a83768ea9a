"""Direct Preference Optimization and its conservative and reference-free forms."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of the answers of a batch of pairs, each (B,), summed over the answer's tokens.

    Attributes:
        chosen: Of the chosen answers under the policy.
        rejected: Of the rejected answers under the policy.
        reference_chosen: Of the chosen answers under the reference; None without one.
        reference_rejected: Of the rejected answers under the reference; None without one.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None


@dataclass(frozen=True)
class PreferenceLoss:
    """What a preference loss says of a batch of pairs.

    Attributes:
        losses: (B,), to be averaged over the pairs of an optimizer step.
        rewards_chosen: (B,), detached.
        rewards_rejected: (B,), detached.
    """

    losses: Tensor
    rewards_chosen: Tensor
    rewards_rejected: Tensor


@dataclass(frozen=True)
class DPO:
    """-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h) with h the difference of the two log-ratios.

    e = label_smoothing = 0 is DPO (Rafailov et al. 2023, "Direct Preference Optimization", arXiv 2305.18290, eq. 7);
    0 < e < 0.5 is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3). `reference_free`
    takes a uniform reference in the loss and, so that the logged rewards are those being optimized, in the rewards.

    Attributes:
        beta: Strength of the pull towards the reference, above 0.
        label_smoothing: Assumed share of flipped preferences.
        reference_free: Leave the reference out.
    """

    beta: float
    label_smoothing: float = 0.0
    reference_free: bool = False

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        """Returns losses and rewards of a batch.

        Raises:
            ValueError: If the reference's log-probabilities are missing and `reference_free` is false.
        """
        chosen, rejected = logps.chosen, logps.rejected
        if not self.reference_free:
            if logps.reference_chosen is None or logps.reference_rejected is None:
                raise ValueError("DPO compares the policy with a reference, but got no reference log-probabilities")
            chosen, rejected = chosen - logps.reference_chosen, rejected - logps.reference_rejected
        scaled = self.beta * (chosen - rejected)
        losses = -(1 - self.label_smoothing) * logsigmoid(scaled) - self.label_smoothing * logsigmoid(-scaled)
        return PreferenceLoss(losses, self.beta * chosen.detach(), self.beta * rejected.detach())
