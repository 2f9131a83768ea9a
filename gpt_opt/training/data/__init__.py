"""From texts to batches: pairs, tokens, the order of training, padding. `data.dataset._target_` names a source."""

from gpt_opt.training.data.jsonl import build_jsonl
from gpt_opt.training.data.pydoc import build_pydoc
from gpt_opt.training.data.records import Pair, PairData

__all__ = ["Pair", "PairData", "build_jsonl", "build_pydoc"]
