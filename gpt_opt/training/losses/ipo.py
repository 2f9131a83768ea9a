"""Identity Preference Optimization (Azar et al. 2023, arXiv 2310.12036, eq. 17), in its two readings."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gpt_opt.training.losses.pairs import PairLogps, RatioLoss


@dataclass(frozen=True)
class IPO(RatioLoss):
    """(r_chosen / n_chosen - r_rejected / n_rejected - 1 / (2 beta))^2 with r the log-ratios and n the tokens.

    The average over the tokens is TRL's reading, which its authors say those of IPO have confirmed. Rewards are those
    of all losses, beta times the summed log-ratios.

    Attributes:
        beta: Inverse of twice the wanted margin of a token; above 0.
        reference_free: Leave the reference out.
    """

    beta: float
    reference_free: bool = False

    def _losses(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        margin = chosen / logps.chosen_tokens - rejected / logps.rejected_tokens
        return (margin - 1 / (2 * self.beta)) ** 2


@dataclass(frozen=True)
class IPOSum(RatioLoss):
    """(h - 1 / (2 beta))^2 with h the difference of the summed log-ratios, as the DPO reference code has it.

    Attributes:
        beta: Inverse of twice the wanted margin of a completion; above 0.
        reference_free: Leave the reference out.
    """

    beta: float
    reference_free: bool = False

    def _losses(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return (chosen - rejected - 1 / (2 * self.beta)) ** 2
