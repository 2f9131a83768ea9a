"""Losses as small functions of log-probabilities; `loss._target_` names one of them."""

from gpt_opt.training.losses.dpo import DPO, Hinge, Robust
from gpt_opt.training.losses.ipo import IPO, IPOSum
from gpt_opt.training.losses.kto import KTO, ExampleLoss, KTOPair, reference_point
from gpt_opt.training.losses.lm import LM
from gpt_opt.training.losses.logprob import IGNORED, token_logps
from gpt_opt.training.losses.orpo import ORPO
from gpt_opt.training.losses.pairs import PairLogps, PairLoss, PreferenceLoss
from gpt_opt.training.losses.sft import SFT
from gpt_opt.training.losses.variants import build_dpo

__all__ = [
    "DPO",
    "IGNORED",
    "IPO",
    "KTO",
    "LM",
    "ORPO",
    "SFT",
    "ExampleLoss",
    "Hinge",
    "IPOSum",
    "KTOPair",
    "PairLogps",
    "PairLoss",
    "PreferenceLoss",
    "Robust",
    "build_dpo",
    "reference_point",
    "token_logps",
]
