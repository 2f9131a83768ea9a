"""From sources to batches: records, tokens, the order of training, padding. `data.dataset._target_` names a source."""

from gpt_opt.training.data.mixture import build_mixture
from gpt_opt.training.data.records import Example, ExampleData, Pair, PairData
from gpt_opt.training.data.sources.published import (
    build_hf,
    build_hh,
    build_jsonl,
    build_se,
    build_shp,
    build_ultrafeedback,
)
from gpt_opt.training.data.sources.pydoc import build_pydoc

__all__ = [
    "Example",
    "ExampleData",
    "Pair",
    "PairData",
    "build_hf",
    "build_hh",
    "build_jsonl",
    "build_mixture",
    "build_pydoc",
    "build_se",
    "build_shp",
    "build_ultrafeedback",
]
