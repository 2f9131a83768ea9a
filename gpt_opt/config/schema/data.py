"""The type of every key of the `data` group; see `gpt_opt.config.schema`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt_opt.config.schema.made import Named, option


@dataclass
class PydocDataset(Named):
    """The embedded preference pairs, or documents."""

    max_samples: int | None


@dataclass
class SumsDataset(Named):
    """Sums that are worked out step by step."""

    rows: int
    max_terms: int


@dataclass
class JsonlDataset(Named):
    """Data of one's own in a file or a folder."""

    path: str
    prompt_column: str
    chosen_column: str
    rejected_column: str
    max_samples: int | None
    validation_split: float


@dataclass
class PublishedDataset(Named):
    """Preference pairs that somebody publishes in a layout of their own: hh, se, ultrafeedback."""

    path: str
    subset: str | None
    split: str
    max_samples: int | None
    validation_split: Any  # a fraction or the name of a split: OmegaConf cannot merge a union that has no default


@dataclass
class ShpDataset(PublishedDataset):
    """Pairs of comments with scores."""

    min_score_ratio: float


@dataclass
class HfDataset(PublishedDataset):
    """Any data set of pairs, of unpaired preferences or demonstrations."""

    prompt_column: str
    chosen_column: str
    rejected_column: str
    completion_column: str
    label_column: str
    text_column: str
    messages_column: str


@dataclass
class MixtureDataset(Named):
    """Several data sets with weights."""

    _recursive_: bool
    parts: dict[str, Any]
    weights: dict[str, float]
    seed: int


@dataclass
class ShardsDataset(Named):
    """Token shards."""

    path: str
    prepare: str | None


@dataclass
class PydocTextDataset(Named):
    """The embedded text."""


_PUBLISHED = option("dataset", PublishedDataset)

DATA_SCHEMAS: dict[str, type[Any]] = {
    "data/pydoc": option("dataset", PydocDataset),
    "data/sums": option("dataset", SumsDataset),
    "data/jsonl": option("dataset", JsonlDataset),
    "data/hh": _PUBLISHED,
    "data/shp": option("dataset", ShpDataset),
    "data/se": _PUBLISHED,
    "data/ultrafeedback": _PUBLISHED,
    "data/hf": option("dataset", HfDataset),
    "data/mixture": option("dataset", MixtureDataset),
    "data/shards": option("dataset", ShardsDataset),
    "data/pydoc_text": option("dataset", PydocTextDataset),
}
"""Schema of each option, by its path below the group `schema`."""
