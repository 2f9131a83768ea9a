"""Everything that a training imports, for the warm process of a slot (`gpt_opt.run.warm`). It computes nothing."""

from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer

from gpt_opt.training import loop

__all__ = ["AutoModelForCausalLM", "AutoTokenizer", "GPT2LMHeadModel", "PreTrainedTokenizerFast", "Trainer", "loop"]
