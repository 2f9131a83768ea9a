"""Token ids by content, kept for the other runs of a sweep.

An entry is one safetensors file, named by the SHA-256 of the texts, the tokenizer and the limits: it never becomes
stale, and holds numbers only, so that a foreign one is at worst made anew. It is written aside and renamed: runs that
start at once each find it whole or not at all. Any entry may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gpt_opt.config.cache import cache_folder
from gpt_opt.training.data.chat import Chat, Turns
from gpt_opt.training.data.records import Ids, Record, Tokenized
from gpt_opt.training.data.tokenize import SequenceLimits, tokenize

log = logging.getLogger(__name__)

MIN_CHARACTERS = 4_000_000
"""Less text than this is not worth an entry: one core tokenizes it in about 1.5 s (and reads it back in 0.2 s)."""

_FORMAT = 3
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
    key = _key(records, tokenizer, limits)
    file = folder / f"{key}.safetensors"
    if (found := _load(file, key, len(records))) is not None:
        rows, truncated = found
        counts.update(truncated)
        return [record.with_ids(ids) for record, ids in zip(records, rows, strict=True)]
    own: Counter[str] = Counter()
    tokenized = tokenize(records, tokenizer, limits, own)
    counts.update(own)
    _store(file, key, [item.ids for item in tokenized], own)
    return tokenized


def _key(records: Sequence[Record], tokenizer: Any, limits: SequenceLimits) -> str:
    digest = hashlib.sha256()
    settings = [_FORMAT, tokenizer.eos_token_id, tokenizer.split_special_tokens, *astuple(limits)]
    chats = [tokenizer.chat_template, tokenizer.special_tokens_map]
    for part in (settings, chats, tokenizer.backend_tokenizer.to_str()):
        digest.update(json.dumps(part, default=str).encode() + b"\n")
    for record in records:
        texts = record.texts
        messages = texts[0].messages if isinstance(texts[0], Chat) else None
        # A demonstration is truncated in another way, and knows which of its messages are responses.
        shown = ["shown", texts[1].messages if isinstance(texts[1], Turns) else None] if record.is_demonstration else []
        shown += ["unmasked"] if record.is_text and record.prompt else []
        digest.update(json.dumps([messages, *texts, *shown]).encode() + b"\n")
    return digest.hexdigest()


def _store(file: Path, key: str, rows: Sequence[Ids], counts: Counter[str]) -> None:
    """Writes an entry; a cache that cannot be written costs a line and time, no run."""
    flat = np.fromiter((token for row in rows for ids in row for token in ids), dtype=np.int32)
    lengths = np.array([[len(ids) for ids in row] for row in rows], dtype=np.int32)
    counted = json.dumps(counts)
    metadata = {"key": key, "counts": counted, "sha256": _checksum(counted, flat, lengths)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".writing-") as aside:
            written = Path(aside, file.name)
            save_file({"ids": flat, "lengths": lengths}, written, metadata=metadata)
            with written.open("rb") as stream:
                os.fsync(stream.fileno())
            written.replace(file)
    except (OSError, SafetensorError) as error:
        log.warning("tokens are not cached in %s: %s", file.parent, error)


def _load(file: Path, key: str, count: int) -> tuple[list[Ids], Counter[str]] | None:
    """Returns the rows of an entry and what was truncated; None where there is none, or it is not whole."""
    try:
        with safe_open(file, framework="numpy") as entry:
            metadata, flat, lengths = entry.metadata(), entry.get_tensor("ids"), entry.get_tensor("lengths")
        if (
            metadata["key"] != key
            or metadata["sha256"] != _checksum(metadata["counts"], flat, lengths)
            or len(lengths) != count
        ):
            raise ValueError("is another entry, or was damaged")
        counts: Counter[str] = Counter(json.loads(metadata["counts"]))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        log.warning("cached tokens are made anew: %s: %s", file, error)
        return None
    return _rows(flat, lengths), counts


def _checksum(text: str, *arrays: np.ndarray[Any, Any]) -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def _rows(flat: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> list[Ids]:
    ids: list[int] = flat.tolist()
    ends: Iterable[int] = accumulate(lengths.ravel().tolist(), initial=0)
    texts = [ids[start:end] for start, end in pairwise(ends)]
    width = lengths.shape[1]
    return [tuple(texts[first : first + width]) for first in range(0, len(texts), width)]
