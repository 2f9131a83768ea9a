"""Tokenizer, model and adapters; `model._target_` names what makes the model."""

from gpt_opt.training.models import gpt  # noqa: F401  (which makes it known to transformers)
from gpt_opt.training.models.build import from_config, from_pretrained

__all__ = ["from_config", "from_pretrained"]
