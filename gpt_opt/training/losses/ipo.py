"""Identity Preference Optimization (Azar et al. 2023, arXiv 2310.12036, eq. 17), in its two readings."""

from __future__ import annotations

from dataclasses import dataclass

from gpt_opt.training.losses.pairs import PairLogps, PreferenceLoss, with_rewards


@dataclass(frozen=True)
class IPO:
    """(r_chosen / n_chosen - r_rejected / n_rejected - 1 / (2 beta))^2 with r the log-ratios and n the tokens.

    The average over the tokens is TRL's reading, which its authors say those of IPO have confirmed. Rewards are those
    of all losses, beta times the summed log-ratios.

    Attributes:
        beta: Inverse of twice the wanted margin of a token; above 0.
        reference_free: Leave the reference out.
    """

    beta: float
    reference_free: bool = False

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        """Returns losses and rewards of a batch.

        Raises:
            ValueError: If the reference's log-probabilities are missing and `reference_free` is false.
        """
        chosen, rejected = ratios = logps.log_ratios(self.reference_free)
        margin = chosen / logps.chosen_tokens - rejected / logps.rejected_tokens
        return with_rewards((margin - 1 / (2 * self.beta)) ** 2, self.beta, ratios)


@dataclass(frozen=True)
class IPOSum:
    """(h - 1 / (2 beta))^2 with h the difference of the summed log-ratios, as the DPO reference code has it.

    Attributes:
        beta: Inverse of twice the wanted margin of a completion; above 0.
        reference_free: Leave the reference out.
    """

    beta: float
    reference_free: bool = False

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        """Returns losses and rewards of a batch.

        Raises:
            ValueError: If the reference's log-probabilities are missing and `reference_free` is false.
        """
        chosen, rejected = ratios = logps.log_ratios(self.reference_free)
        return with_rewards((chosen - rejected - 1 / (2 * self.beta)) ** 2, self.beta, ratios)
