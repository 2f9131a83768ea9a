"""`loss=dpo`: the loss that `loss.loss_type` names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt_opt.config.checks.losses import LOSS_TYPES, variant_problems
from gpt_opt.errors import ConfigError
from gpt_opt.training.losses.dpo import DPO, Hinge, Robust
from gpt_opt.training.losses.ipo import IPO, IPOSum
from gpt_opt.training.losses.kto import KTOPair
from gpt_opt.training.losses.pairs import PairLoss

_VARIANTS: dict[str, Callable[..., PairLoss]] = {
    "sigmoid": DPO,
    "robust": Robust,
    "hinge": Hinge,
    "ipo": IPO,
    "ipo_sum": IPOSum,
    "kto_pair": KTOPair,
}


def build_dpo(loss_type: str, beta: float, label_smoothing: float = 0.0, reference_free: bool = False) -> PairLoss:
    """Returns a loss over pairs.

    Args:
        loss_type: One of `gpt_opt.config.checks.losses.LOSS_TYPES`.
        beta: Strength of the pull towards the reference, above 0.
        label_smoothing: Assumed fraction of flipped preferences.
        reference_free: Leave the reference out.

    Raises:
        ConfigError: If there is no such type, or it would ignore one of the settings.
    """
    settings: dict[str, Any] = {"label_smoothing": label_smoothing, "reference_free": reference_free}
    if problems := list(variant_problems({"loss_type": loss_type, **settings})):
        raise ConfigError(problems)
    used = {name: value for name, value in settings.items() if name in LOSS_TYPES[loss_type]}
    return _VARIANTS[loss_type](beta, **used)
