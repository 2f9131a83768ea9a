"""The cache of token ids: the same result, whole or made anew, shared by processes that start at once."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpt_opt.config.cache import VARIABLE, cache_folder
from gpt_opt.training.data import cache
from gpt_opt.training.data.chat import Chat
from gpt_opt.training.data.records import Example, Pair
from gpt_opt.training.data.tokenize import SequenceLimits, tokenize
from gpt_opt.training.models.byte_tokenizer import byte_tokenizer

LIMITS = SequenceLimits(24, 8, truncation_side="right")
PAIRS = [Pair(f"prompt {n}", "c" * (n % 30 + 1), "r" * (n % 7 + 1)) for n in range(50)]
EXAMPLES = [Example(pair.prompt, pair.chosen, index % 2 == 0) for index, pair in enumerate(PAIRS)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(cache, "MIN_CHARACTERS", 1)
    return tmp_path / "tokens"


def once(
    records: Sequence[Any] = PAIRS, tokenizer: Any = None, limits: SequenceLimits = LIMITS
) -> tuple[list[Any], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(cache.tokenize_once(records, tokenizer or byte_tokenizer(), limits, counts)), counts


def straight(records: Sequence[Any] = PAIRS) -> tuple[list[Any], Counter[str]]:
    counts: Counter[str] = Counter()
    return tokenize(records, byte_tokenizer(), LIMITS, counts), counts


@pytest.mark.parametrize("records", [PAIRS, EXAMPLES])
def test_the_second_time_is_read_and_is_the_same(
    records: Sequence[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert once(records) == straight(records)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(cache, "tokenize", None)
    assert once(records) == straight(records)


def test_an_entry_is_for_its_texts_tokenizer_and_limits_alone(folder: Path) -> None:
    other = byte_tokenizer()
    other.add_tokens(["prompt"])
    chats = [Pair(Chat([("user", "x")]), " c", " r")]
    plain = [Pair(str(chats[0].prompt), " c", " r")]
    templated = byte_tokenizer()
    templated.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    splitting = byte_tokenizer()
    splitting.split_special_tokens = True
    variants = [
        once(),
        once(PAIRS[1:]),
        once(PAIRS[::-1]),
        once(EXAMPLES),
        once(tokenizer=other),
        once(tokenizer=splitting),
        once(limits=replace(LIMITS, truncation_side="left")),
        once(limits=replace(LIMITS, max_length=25)),
        once(limits=replace(LIMITS, special_tokens=(97,))),
        once(chats),
        once(plain),
        once(chats, templated),
    ]
    assert len(list(folder.iterdir())) == len(variants)
    assert once(chats, templated)[0] != once(chats)[0]


@pytest.mark.parametrize("damage", ["torn", "empty", "flipped", "foreign", "renamed", "folder"])
def test_an_entry_that_is_not_whole_is_made_anew(
    damage: str, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(PAIRS[1:])
    (other,) = folder.iterdir()
    other = other.rename(folder.parent / "other")
    once()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    if damage == "torn":
        file.write_bytes(whole[:-50])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "flipped":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "foreign":
        save_file({"x": np.zeros(3)}, file)
    elif damage == "renamed":
        other.rename(file)
    else:
        file.unlink()
        file.mkdir()
    assert once() == straight()
    assert "made anew" in caplog.text
    if damage != "folder":
        monkeypatch.setattr(cache, "tokenize", None)
        assert once() == straight()


def test_an_entry_that_another_machine_replaces_while_it_is_read_ends_no_process(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(self: Path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")  # of a mapped file it would be a signal

    once()
    monkeypatch.setattr(Path, "read_bytes", stale)
    assert once() == straight()
    assert "made anew" in caplog.text


def test_what_a_killed_process_left_half_written_is_removed(folder: Path) -> None:
    left, at_work = folder / ".left.node1.7.tmp", folder / ".now.node2.8.tmp"
    folder.mkdir(parents=True)
    for half in (left, at_work):
        half.touch()
    os.utime(left, (1, 1))
    once()
    assert not left.exists()
    assert at_work.exists()


def test_an_entry_may_be_read_by_whom_the_umask_lets(folder: Path) -> None:
    once()
    (entry,) = folder.iterdir()
    (folder / "any").touch()
    assert entry.stat().st_mode == (folder / "any").stat().st_mode


def test_what_cannot_be_written_costs_no_run(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("a file is in the way")
    assert once() == straight()
    assert "are not cached" in caplog.text
    monkeypatch.setenv(VARIABLE, "")
    assert cache_folder("tokens") is None
    assert once() == straight()


def test_small_data_is_not_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(len(text) for pair in PAIRS for text in (pair.prompt, pair.chosen, pair.rejected))
    monkeypatch.setattr(cache, "MIN_CHARACTERS", size + 1)
    once()
    assert not folder.exists()
    monkeypatch.setattr(cache, "MIN_CHARACTERS", size)
    once()
    assert folder.exists()


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("tokens") == tmp_path / "xdg" / "gpt-opt" / "tokens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("tokens") == tmp_path / ".cache" / "gpt-opt" / "tokens"


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As in a container that runs under a number which no user has."""
    for name in (VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654_321)
    assert cache_folder("tokens") is None
    assert "GPTOPT_CACHE=FOLDER" in caplog.text
    assert once() == straight()


def _in_a_process(start: Any, results: Any) -> None:
    cache.MIN_CHARACTERS = 1
    tokenizer = byte_tokenizer()
    start.wait()
    results.put(once(tokenizer=tokenizer) == straight())


def test_processes_that_start_at_once_all_get_it(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(6), context.Queue()
    processes = [context.Process(target=_in_a_process, args=(start, results)) for _ in range(6)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True] * 6
    for process in processes:
        process.join()
    assert len(list(folder.iterdir())) == 1
