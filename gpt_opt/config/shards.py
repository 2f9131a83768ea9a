"""Token shards on disk, as far as it takes to refuse a folder before anything starts: headers, names, the meta file.

A shard is 256 little-endian int32 (magic, version, number of tokens, zeros) and then uint16 tokens. A folder of them
has `train_*.bin`, `val_*.bin` and, where `gptopt prepare` made it, `meta.json`.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt_opt.errors import DataError, Problem
from gpt_opt.records.io import read_json_object

MAGIC, VERSION = 20250401, 1
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
LARGEST_TOKEN = 65_535
LARGEST_COUNT = 2**31 - 1

TRAIN, VALIDATION = "train", "val"
META_FILE = "meta.json"


@dataclass(frozen=True)
class Meta:
    """What `gptopt prepare` says of the shards that it made.

    Attributes:
        tokenizer: `bytes`, or the hub id or folder of it.
        vocab_size: Tokens that it has.
        vocabulary: SHA-256 of them with their ids.
        documents: Texts that were tokenized.
        train_tokens: Tokens of the training shards.
        val_tokens: Tokens of the validation shard.
        source: What was tokenized and how, as `gptopt prepare` was told.
    """

    tokenizer: str
    vocab_size: int
    vocabulary: str
    documents: int
    train_tokens: int
    val_tokens: int
    source: dict[str, Any]

    def to_record(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)


def token_count(file: Path) -> int:
    """Returns how many tokens a shard has, from its header.

    Raises:
        DataError: If it is not a whole shard of this format.
    """
    size = file.stat().st_size
    must = f"must be a shard of tokens (magic {MAGIC}, version {VERSION})"
    if size < HEADER_BYTES:
        raise _damaged(file, f"{must}, but has {size:,} bytes, less than a header")
    with file.open("rb") as stream:
        magic, version, count = struct.unpack("<3i", stream.read(12))
    if (magic, version) != (MAGIC, VERSION):
        raise _damaged(file, f"{must}, but its magic is {magic} and its version {version}")
    if size != (expected := HEADER_BYTES + 2 * count):
        raise _damaged(file, f"{must}, but has {size:,} bytes, where its {count:,} tokens need {expected:,}")
    return int(count)


def _damaged(file: Path, problem: str) -> DataError:
    return DataError([Problem(str(file), problem, "copy it again, or make it anew: gptopt prepare")])


def find_shards(folder: Path, split: str, command: str = "") -> dict[Path, int]:
    """Returns the shards `<split>_*.bin` of a folder in the order of their names, with their tokens.

    Args:
        folder: Where they lie.
        split: `TRAIN` or `VALIDATION`.
        command: What `gptopt prepare` is given to make them; "" where nobody knows.

    Raises:
        DataError: If there are none, or one is damaged.
    """
    found = sorted(folder.glob(f"{split}_*.bin"))
    if not found:
        others = sorted({file.name.rpartition("_")[0] for file in folder.glob("*_*.bin")})
        held = f"has those of {', '.join(others)}" if others else "has none" if folder.is_dir() else "is not there"
        command = command or "--input FILES|hf:NAME --tokenizer gpt2"
        fix = f"make them: gptopt prepare {command} --out {folder}"
        raise DataError(
            [Problem("data.dataset.path", f"must hold shards {split}_*.bin, but {str(folder)!r} {held}", fix)]
        )
    return {file: token_count(file) for file in found}


def read_meta(folder: Path) -> Meta | None:
    """Returns what the meta file of a folder says; None where there is none, as of shards that others made.

    Raises:
        DataError: If it is not as `gptopt prepare` writes it.
    """
    file = folder / META_FILE
    try:
        return Meta(**read_json_object(file)) if file.is_file() else None
    except (OSError, ValueError, TypeError) as error:
        raise DataError([Problem(str(file), f"must be as gptopt prepare writes it, but: {error}")]) from error
