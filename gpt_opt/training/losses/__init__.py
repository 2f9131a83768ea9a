"""Losses as small functions of log-probabilities; `loss._target_` names one of them."""

from gpt_opt.training.losses.dpo import DPO, PairLogps, PreferenceLoss
from gpt_opt.training.losses.logprob import IGNORED, sequence_kl, token_logps
from gpt_opt.training.losses.sft import SFT

__all__ = ["DPO", "IGNORED", "SFT", "PairLogps", "PreferenceLoss", "sequence_kl", "token_logps"]
