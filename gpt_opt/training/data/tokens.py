"""Data for pretraining: tokens in shards, from the files of `gptopt prepare` or made of the embedded text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt_opt.config.cache import cache_folder
from gpt_opt.config.checks.pretraining import other_tokenizer
from gpt_opt.config.inputs import file_sha256
from gpt_opt.config.shards import TRAIN, VALIDATION, find_shards, read_meta
from gpt_opt.errors import DataError
from gpt_opt.records.code import this_code
from gpt_opt.training.data.cache import read_entry, tokenizer_settings, write_entry
from gpt_opt.training.data.encode import Encoder, vocabulary_sha256
from gpt_opt.training.data.shards import Shard, open_shard
from gpt_opt.training.data.sources.pydoc import SPLITS, documents, library_sha256


@dataclass(frozen=True)
class TokenData:
    """Tokens to pretrain on.

    Attributes:
        train: Training shards, in order.
        validation: Validation shards, in order.
        fingerprint: SHA-256 of all of them.
    """

    train: Sequence[Shard]
    validation: Sequence[Shard]
    fingerprint: str


def build_shards(path: str, tokenizer: Any, prepare: str | None = None) -> TokenData:
    """Opens the shards of a folder.

    Args:
        path: The folder, of `train_*.bin` and `val_*.bin`.
        tokenizer: Of the model; where the meta file says what the shards were made with, it has to be the same.
        prepare: What `gptopt prepare` is given to make them, for the error that says so.

    Raises:
        DataError: If there are none, one is damaged, or they are of another tokenizer.
    """
    folder = Path(path)
    train, validation = (list(find_shards(folder, split, prepare or "")) for split in (TRAIN, VALIDATION))
    meta = read_meta(folder)
    if meta is not None and meta.vocabulary != vocabulary_sha256(tokenizer):
        raise DataError([other_tokenizer(tokenizer.name_or_path or "another one", meta)])
    digests = "".join(f"{file.name} {file_sha256(file)}\n" for file in (*train, *validation))
    return TokenData(
        [open_shard(file) for file in train],
        [open_shard(file) for file in validation],
        hashlib.sha256(digests.encode()).hexdigest(),
    )


def build_pydoc_text(tokenizer: Any) -> TokenData:
    """Tokenizes the embedded text, one shard a split: documents back to back, each after an end-of-text token.

    Raises:
        DataError: If this Python comes without the source of its library, or the tokenizer has no such token.
    """
    encoder = Encoder(tokenizer, "that of the model")
    made_of = [this_code().sha256, library_sha256(), version("tokenizers"), *tokenizer_settings(tokenizer)]
    key, folder = hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest(), cache_folder("tokens")
    file = None if folder is None else folder / f"{key}.safetensors"
    entry = None if file is None else read_entry(file)
    if entry is None:
        arrays: dict[str, Any] = {split: encoder.tokens(documents(split)) for split in SPLITS}
        digest = hashlib.sha256(b"".join(arrays[split].tobytes() for split in SPLITS)).hexdigest()
        if file is not None:
            write_entry(file, digest, arrays)
    else:
        digest, arrays = entry
    train, validation = ([(f"embedded text, {split}", arrays[split])] for split in SPLITS)
    return TokenData(train, validation, digest)
