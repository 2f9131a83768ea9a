"""The format of token shards, byte for byte, and the order of rows and batches."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_opt.config.shards import HEADER_BYTES, HEADER_INTS, MAGIC, VERSION, find_shards, token_count
from gpt_opt.errors import DataError
from gpt_opt.training.data.shards import Shard, ShardRows, open_shard, write_shard


def test_the_bytes_of_a_shard(vectors: dict[str, Any], tmp_path: Path) -> None:
    case = vectors["shard_file_bytes"]
    file = tmp_path / "train_000001.bin"
    write_shard(file, np.array(case["inputs"]["tokens"]))
    content, expected = file.read_bytes(), case["expected"]
    assert len(content) == expected["file_size"]
    assert content[:16].hex() == expected["first_16_bytes_hex"]
    assert content[HEADER_BYTES:].hex() == expected["payload_hex"]
    assert hashlib.sha256(content).hexdigest() == expected["sha256"]
    assert token_count(file) == len(case["inputs"]["tokens"])
    assert [item.name for item in tmp_path.iterdir()] == [file.name]


ANY = 65_536
"""More tokens than any tokenizer of these tests has."""


def shards_of(folder: Path, split: str = "train") -> list[Shard]:
    return [open_shard(file) for file in find_shards(folder, split)]


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    write_shard(tmp_path / "train_000001.bin", np.arange(30))
    write_shard(tmp_path / "train_000002.bin", np.arange(100, 125))
    (tmp_path / "train_000003.bin.part").write_text("of somebody else")
    write_shard(tmp_path / "pretrain_000001.bin", np.arange(7))
    return shards_of(tmp_path)


@pytest.mark.parametrize(("world", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_batches_of_ranks(vectors: dict[str, Any], shards: list[Shard], world: int, rank: int) -> None:
    case = vectors["shard_loader"]
    b, t = case["inputs"]["B"], case["inputs"]["T"]
    rows = ShardRows(shards, t, b * world, ANY)
    firsts = [rows[index][0] for index in range(rank * b, len(rows), b * world)]
    assert firsts == case["expected"]["first_token_of_each_batch"][f"world{world}_rank{rank}"]
    if (world, rank) == (2, 1):
        batch = np.stack([rows[index] for index in range(b, 2 * b)])
        assert batch[:, :-1].tolist() == case["expected"]["batch0_world2_rank1"]["x"]
        assert batch[:, 1:].tolist() == case["expected"]["batch0_world2_rank1"]["y"]


def test_a_row_is_where_it_says(shards: list[Shard]) -> None:
    rows = ShardRows(shards, 3, 2, ANY)
    assert len(rows) == 16
    assert [rows.where(index) for index in (0, 7, 8, 15)] == [(0, 0), (0, 21), (1, 0), (1, 21)]
    assert rows[8].tolist() == [100, 101, 102, 103]
    assert rows[8].dtype == np.int64
    with pytest.raises(IndexError):
        rows[16]
    few = rows.first(9)
    assert [row.tolist() for row in few] == [row.tolist() for row in rows][:9]


def test_a_shard_that_fills_no_batch_is_passed_over(tmp_path: Path) -> None:
    for number, count in enumerate((3, 30, 6, 31)):
        write_shard(tmp_path / f"train_{number}.bin", np.arange(count) + 100 * number)
    rows = ShardRows(shards_of(tmp_path), 3, 2, ANY)
    assert [int(row[0]) for row in rows] == [*range(100, 124, 3), *range(300, 330, 3)]
    with pytest.raises(
        DataError, match=r"needs 31 tokens, the one after its last included, but the largest of 1 has 30"
    ):
        ShardRows([open_shard(tmp_path / "train_1.bin")], 3, 10, ANY)


def test_a_shard_without_tokens_is_passed_over(tmp_path: Path) -> None:
    write_shard(tmp_path / "train_1.bin", np.arange(0))
    write_shard(tmp_path / "train_2.bin", np.arange(7))
    assert [row.tolist() for row in ShardRows(shards_of(tmp_path), 3, 2, ANY)] == [[0, 1, 2, 3], [3, 4, 5, 6]]


def test_a_token_beyond_the_vocabulary_is_named_with_its_place(shards: list[Shard]) -> None:
    rows = ShardRows(shards, 3, 2, 110)
    assert rows[10].tolist() == [106, 107, 108, 109]
    with pytest.raises(DataError, match=r"train_000002.bin: must have token ids below 110, .* but token 12 is 112"):
        rows[11]


def test_shards_are_counted_by_their_headers(tmp_path: Path) -> None:
    """A shard of 2 GB, of which the disk holds the header alone: nothing reads all of it."""
    header, count = np.zeros(HEADER_INTS, dtype="<i4"), 2**30
    header[:3] = MAGIC, VERSION, count
    with (tmp_path / "train_1.bin").open("wb") as stream:
        stream.write(header.tobytes())
        stream.truncate(HEADER_BYTES + 2 * count)
    rows = ShardRows(shards_of(tmp_path), 1024, 512, ANY)
    assert len(rows) == (count - 1) // (1024 * 512) * 512
    assert rows[len(rows) - 1].tolist() == [0] * 1025


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has 0 bytes, less than a header"),
        (b"x" * HEADER_BYTES, "its magic is 2021161080"),
        (np.array([20240520, 1, 2, *[0] * 253], dtype="<i4").tobytes() + bytes(4), "its magic is 20240520"),
        (np.array([20250401, 2, 2, *[0] * 253], dtype="<i4").tobytes() + bytes(4), "its version 2"),
        (np.array([20250401, 1, 2, *[0] * 253], dtype="<i4").tobytes() + bytes(2), "its 2 tokens need 1,028"),
        (np.array([20250401, 1, 2, *[0] * 253], dtype="<i4").tobytes() + bytes(6), "its 2 tokens need 1,028"),
        (np.array([20250401, 1, -2, *[0] * 253], dtype="<i4").tobytes(), "its -2 tokens"),
    ],
)
def test_what_is_no_shard_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "train_1.bin").write_bytes(content)
    with pytest.raises(DataError, match=said):
        find_shards(tmp_path, "train")


@pytest.mark.parametrize("token", [-1, 65_536])
def test_tokens_that_the_format_cannot_hold_are_refused(tmp_path: Path, token: int) -> None:
    with pytest.raises(DataError, match=r"must have token ids from 0 to 65,535, but one is"):
        write_shard(tmp_path / "train_1.bin", np.array([1, token]))
    assert not [*tmp_path.iterdir()]


def test_missing_shards_are_answered_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)is not there.*make them: gptopt prepare --input hf:x --out .*none"):
        find_shards(tmp_path / "none", "train", "--input hf:x")
    write_shard(tmp_path / "val_000000.bin", np.arange(9))
    with pytest.raises(DataError, match=r"shards train_\*.bin, but '.*' has those of val"):
        find_shards(tmp_path, "train")
