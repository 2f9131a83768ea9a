"""Token ids by content, kept for the other runs of a sweep.

An entry is one safetensors file, named by the SHA-256 of the texts, the tokenizer and the limits: it never becomes
stale, and holds numbers only, so that one of somebody else runs no code; whole ones are believed. It is written aside
and renamed: runs that start at once each find it whole or not at all. Any entry may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gpt_opt.config.cache import cache_folder
from gpt_opt.records.io import write_bytes
from gpt_opt.training.data.chat import Chat, Turns
from gpt_opt.training.data.records import Ids, Record, Tokenized
from gpt_opt.training.data.tokenize import SequenceLimits, tokenize

log = logging.getLogger(__name__)

Array = NDArray[Any]

MIN_CHARACTERS = 4_000_000
"""Less text than this is not worth an entry: one core tokenizes it in about 1.5 s (and reads it back in 0.2 s)."""

_LEFT_S = 86_400.0
"""What is half-written for so long a killed process has left."""

_FORMAT = 4
"""Changes whenever the same texts would give other ids, or the layout of an entry changes."""


def tokenize_once(
    records: Sequence[Record], tokenizer: Any, limits: SequenceLimits, counts: Counter[str]
) -> Sequence[Tokenized]:
    """Does what `tokenize` does, unless the cache holds the result already; large results are put into it.

    Args:
        records: Pairs, or examples.
        tokenizer: Of the model. One that cannot be written as text is used without the cache.
        limits: How long sequences may be.
        counts: Where to add what was truncated.

    Raises:
        DataError: As `tokenize`.
    """
    folder = cache_folder("tokens")
    large = sum(len(text) for record in records for text in record.texts) >= MIN_CHARACTERS
    if folder is None or not large or not hasattr(tokenizer, "backend_tokenizer"):
        return tokenize(records, tokenizer, limits, counts)
    file = folder / f"{_key(records, tokenizer, limits)}.safetensors"
    if (found := read_entry(file)) is not None:
        counted, arrays = found
        counts.update(Counter(json.loads(counted)))
        rows = rows_of(arrays["ids"], arrays["lengths"])
        return [record.with_ids(ids) for record, ids in zip(records, rows, strict=True)]
    own: Counter[str] = Counter()
    tokenized = tokenize(records, tokenizer, limits, own)
    counts.update(own)
    ids, lengths = flattened([item.ids for item in tokenized])
    write_entry(file, json.dumps(own), {"ids": ids, "lengths": lengths})
    return tokenized


def _key(records: Sequence[Record], tokenizer: Any, limits: SequenceLimits) -> str:
    digest = hashlib.sha256()
    for part in ([_FORMAT, *astuple(limits)], tokenizer_settings(tokenizer)):
        digest.update(json.dumps(part, default=str).encode() + b"\n")
    for record in records:
        texts = record.texts
        messages = texts[0].messages if isinstance(texts[0], Chat) else None
        # A demonstration is truncated in another way, and knows which of its messages are responses.
        shown = ["shown", texts[1].messages if isinstance(texts[1], Turns) else None] if record.is_demonstration else []
        shown += ["unmasked"] if record.is_text and record.prompt else []
        digest.update(json.dumps([messages, *texts, *shown]).encode() + b"\n")
    return digest.hexdigest()


def tokenizer_settings(tokenizer: Any) -> list[Any]:
    """Returns all of a tokenizer that token ids follow from."""
    special = [tokenizer.eos_token_id, tokenizer.split_special_tokens, tokenizer.special_tokens_map]
    return [*special, tokenizer.chat_template, tokenizer.backend_tokenizer.to_str()]


def write_entry(file: Path, text: str, arrays: Mapping[str, Array]) -> None:
    """Writes an entry, whose key is its name; a cache that cannot be written costs a line and time, no run."""
    metadata = {"key": file.stem, "text": text, "sha256": _checksum(text, arrays)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for left in file.parent.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > _LEFT_S:
                left.unlink(missing_ok=True)
        write_bytes(file, save(dict(arrays), metadata))  # `save_file` would let nobody but its user read it
    except (OSError, SafetensorError) as error:
        log.warning("tokens are not cached in %s: %s", file.parent, error)


def read_entry(file: Path) -> tuple[str, dict[str, Array]] | None:
    """Returns text and arrays of an entry; None where there is none, or it is not whole."""
    try:
        data = file.read_bytes()  # one that is mapped ends the process where another machine replaces it meanwhile
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        arrays = load(data)
        if metadata["key"] != file.stem or metadata["sha256"] != _checksum(metadata["text"], arrays):
            raise ValueError("is another entry, or was damaged")
        return metadata["text"], arrays
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        log.warning("cached tokens are made anew: %s: %s", file, error)
        return None


def _checksum(text: str, arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def flattened(rows: Sequence[Ids]) -> tuple[Array, Array]:
    """Returns all ids of some rows, and the lengths of the texts in them, (rows, texts of a row)."""
    flat = np.fromiter((token for row in rows for ids in row for token in ids), dtype=np.int32)
    return flat, np.array([[len(ids) for ids in row] for row in rows], dtype=np.int32)


def rows_of(flat: Array, lengths: Array) -> list[Ids]:
    """Returns rows that were `flattened`."""
    ids: list[int] = flat.tolist()
    ends: Iterable[int] = accumulate(lengths.ravel().tolist(), initial=0)
    texts = [ids[start:end] for start, end in pairwise(ends)]
    width = lengths.shape[1]
    return [tuple(texts[first : first + width]) for first in range(0, len(texts), width)]
