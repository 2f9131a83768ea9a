"""Everything that a training imports, for the warm process of a slot (`gpt_opt.run.warm`), and no tensor.

Importing this also compiles the patterns by which transformers names weights in its files, a third of a second of the
first checkpoint of a process.
"""

from contextlib import suppress

from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer

from gpt_opt.training import loop, trackers

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "GPT2LMHeadModel",
    "PreTrainedTokenizerFast",
    "Trainer",
    "loop",
    "trackers",
]

with suppress(ImportError):  # another version of transformers compiles them elsewhere
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("gpt2")
