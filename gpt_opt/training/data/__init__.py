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
from gpt_opt.training.data.sources.pydoc import build_pydoc, build_pydoc_documents
from gpt_opt.training.data.sources.sums import build_sums
from gpt_opt.training.data.tokens import TokenData, build_pydoc_text, build_shards

__all__ = [
    "Example",
    "ExampleData",
    "Pair",
    "PairData",
    "TokenData",
    "build_hf",
    "build_hh",
    "build_jsonl",
    "build_mixture",
    "build_pydoc",
    "build_pydoc_documents",
    "build_pydoc_text",
    "build_se",
    "build_shards",
    "build_shp",
    "build_sums",
    "build_ultrafeedback",
]
