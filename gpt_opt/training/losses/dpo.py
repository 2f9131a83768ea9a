"""Direct Preference Optimization and the losses that differ from it only in their function of the margin."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from gpt_opt.training.losses.pairs import PairLogps, RatioLoss


@dataclass(frozen=True)
class DPO(RatioLoss):
    """-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h) with h the difference of the two log-ratios.

    e = label_smoothing = 0 is DPO (Rafailov et al. 2023, "Direct Preference Optimization", arXiv 2305.18290, eq. 7);
    0 < e < 0.5 is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3). `reference_free`
    takes a uniform reference in the loss and, so that the logged rewards are those being optimized, in the rewards.

    Attributes:
        beta: Strength of the pull towards the reference, above 0.
        label_smoothing: Assumed fraction of flipped preferences, at least 0 and below 0.5.
        reference_free: Leave the reference out.
    """

    beta: float
    label_smoothing: float = 0.0
    reference_free: bool = False

    def _losses(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        scaled = self.beta * (chosen - rejected)
        return -(1 - self.label_smoothing) * logsigmoid(scaled) - self.label_smoothing * logsigmoid(-scaled)


@dataclass(frozen=True)
class Robust(RatioLoss):
    """(-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2e), an unbiased estimate of DPO's loss.

    For preferences of which a fraction e = label_smoothing is flipped (Chowdhury et al. 2024, "Provably Robust DPO",
    arXiv 2403.00409). The loss can be negative.

    Attributes:
        beta: Strength of the pull towards the reference, above 0.
        label_smoothing: Fraction of flipped preferences, above 0 and below 0.5.
        reference_free: Leave the reference out.
    """

    beta: float
    label_smoothing: float
    reference_free: bool = False

    def _losses(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        scaled, flipped = self.beta * (chosen - rejected), self.label_smoothing
        return (-(1 - flipped) * logsigmoid(scaled) + flipped * logsigmoid(-scaled)) / (1 - 2 * flipped)


@dataclass(frozen=True)
class Hinge(RatioLoss):
    """max(0, 1 - beta h) (Zhao et al. 2023, "SLiC-HF", arXiv 2305.10425; with a reference: Liu et al. 2309.06657).

    Attributes:
        beta: Inverse of the margin, in log-probability, from which on a pair is learned; above 0.
        reference_free: Leave the reference out, as SLiC-HF does.
    """

    beta: float
    reference_free: bool = False

    def _losses(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return relu(1 - self.beta * (chosen - rejected))
