"""From texts to token shards: `gptopt prepare`.

Processes tokenize pieces of the input into `.prepare/` in the output folder, each piece a file of its own; then the
pieces are packed into shards. Every file is whole or not there and says nothing of time or machine: a preparation that
was killed goes on where it was, and ends with the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_opt.config.inputs import file_sha256
from gpt_opt.config.shards import (
    LARGEST_COUNT,
    LARGEST_TOKEN,
    META_FILE,
    TRAIN,
    VALIDATION,
    Meta,
    find_shards,
    read_meta,
)
from gpt_opt.errors import DataError, Problem
from gpt_opt.records.io import read_json_object, remove_temporaries, write_text
from gpt_opt.training.data.encode import Encoder, vocabulary_sha256
from gpt_opt.training.data.pieces import HUB, Piece, file_pieces, hub_pieces, input_files
from gpt_opt.training.data.shards import write_shard
from gpt_opt.training.data.workers import encode_in_worker, encode_piece, start_worker, without_ctrl_c
from gpt_opt.training.models.build import build_tokenizer

WORK = ".prepare"
REQUEST = "request.json"

Tell = Callable[[int, int | None, int], None]
"""Told after every piece: pieces done, pieces in all where that is known, tokens so far."""


@dataclass(frozen=True)
class Request:
    """What to prepare.

    Attributes:
        inputs: Files, folders, or one `hf:NAME`.
        tokenizer: `bytes`, a hub id or a folder.
        out: Where the shards go: a folder that is new, empty, or of the same request.
        shard_tokens: Tokens of a shard; the last one may have fewer.
        max_tokens: Tokens in all; None takes those of the whole input.
        val_tokens: Tokens of the validation shard; None takes a shard, or a tenth of all where that is less.
        subset: Configuration of the data set.
        split: Split of the data set.
        text_column: Column or key of the texts.
        streamed: Whether the data set is read as it is needed.
    """

    inputs: tuple[str, ...]
    tokenizer: str
    out: Path
    shard_tokens: int = 100_000_000
    max_tokens: int | None = None
    val_tokens: int | None = None
    subset: str | None = None
    split: str = "train"
    text_column: str = "text"
    streamed: bool = False

    @property
    def hub_name(self) -> str | None:
        """The name of the data set; None for files."""
        return self.inputs[0].removeprefix(HUB) if self.inputs[0].startswith(HUB) else None

    def to_record(self) -> dict[str, Any]:
        """Returns what decides the bytes of the shards, as JSON values: of files their content too.

        Raises:
            DataError: If an input is no such file.
        """
        keys = ("tokenizer", "shard_tokens", "max_tokens", "val_tokens", "subset", "split", "text_column")
        files = input_files(self.inputs) if self.hub_name is None else []
        digests = [file_sha256(file) for file in files]
        return {"inputs": list(self.inputs), "sha256": digests, **{key: getattr(self, key) for key in keys}}


def prepare_shards(request: Request, processes: int, tell: Tell) -> Meta:
    """Tokenizes the input and writes shards and meta file; does nothing where they are there.

    Args:
        request: What to prepare.
        processes: How many tokenize at a time.
        tell: Told of the progress.

    Raises:
        DataError: If the input cannot be read, the format cannot hold the tokenizer, or the folder has other files.
        ConfigError: If the tokenizer cannot be loaded.
    """
    _check(request)
    tokenizer = build_tokenizer({"tokenizer_name_or_path": request.tokenizer})
    if len(tokenizer) > LARGEST_TOKEN + 1:
        problem = f"must have at most {LARGEST_TOKEN + 1:,} tokens, as ids of a shard have 16 bits, but "
        problem += f"{request.tokenizer} has {len(tokenizer):,}"
        raise DataError([Problem("--tokenizer", problem, "take one with a smaller vocabulary, such as gpt2")])
    encoder = Encoder(tokenizer, request.tokenizer)
    if (made := _made(request)) is not None:
        return made
    files = _tokenize(request, encoder, processes, tell)
    vocabulary = len(tokenizer), vocabulary_sha256(tokenizer)
    meta = _pack(request, files, encoder.end, *vocabulary)
    write_text(request.out / META_FILE, json.dumps(meta.to_record(), indent=1) + "\n")
    shutil.rmtree(request.out / WORK)
    return meta


def _check(request: Request) -> None:
    counts = {
        "--shard-tokens": request.shard_tokens,
        "--tokens": request.max_tokens,
        "--val-tokens": request.val_tokens,
    }
    problems = [
        Problem(name, f"must be at least 2, but is {value}") for name, value in counts.items() if value and value < 2
    ]
    for name in ("--shard-tokens", "--val-tokens"):  # each the tokens of one shard
        if (value := counts[name] or 0) > LARGEST_COUNT:
            problems.append(Problem(name, f"must be at most {LARGEST_COUNT:,}, but is {value:,}"))
    hub = [name for name in request.inputs if name.startswith(HUB)]
    if not request.inputs or (hub and len(request.inputs) > 1):
        problem = f"must be files or one {HUB}NAME, but is {', '.join(request.inputs) or 'nothing'}"
        problems.append(Problem("--input", problem))
    if problems:
        raise DataError(problems)


def _made(request: Request) -> Meta | None:
    """Claims the output folder for a request; returns the meta file of one that is done.

    Raises:
        DataError: If the folder holds anything else.
    """
    out, work = request.out, request.out / WORK
    record, found = request.to_record(), read_meta(request.out)
    started = read_json_object(work / REQUEST) if (work / REQUEST).is_file() else None
    if found is not None and found.source == record:
        _require_whole(out, found)
        shutil.rmtree(work, ignore_errors=True)  # where it was killed at the very end
        return found
    if found is not None or (started is not None and started != record):
        other = found.source if found is not None else started or {}
        differ = [f"{key} was {value}" for key, value in other.items() if record.get(key) != value]
        problem = f"must be a new folder, but {out} has shards of another request: {'; '.join(differ)}"
        raise DataError([Problem("--out", problem, "name another folder, or delete it")])
    if started is None:
        if out.is_dir() and any(item.name != WORK for item in out.iterdir()):
            raise DataError([Problem("--out", f"must be a new or an empty folder, but {out} has other files")])
        work.mkdir(parents=True, exist_ok=True)
        write_text(work / REQUEST, json.dumps(record) + "\n")
    remove_temporaries(work)
    remove_temporaries(out)
    return None


def _require_whole(out: Path, made: Meta) -> None:
    held = [sum(find_shards(out, split).values()) for split in (TRAIN, VALIDATION)]
    if held != [made.train_tokens, made.val_tokens]:
        problem = f"must have the {made.train_tokens + made.val_tokens:,} tokens of {META_FILE}, but has {sum(held):,}"
        raise DataError([Problem(str(out), problem, "delete the folder, and prepare it again")])


# -- tokenizing ---------------------------------------------------------------------------------------------------


def _pieces(request: Request, skip: int) -> tuple[Iterator[Piece], int | None]:
    """Returns the pieces from number `skip` on, and how many there are in all where that is known."""
    if (name := request.hub_name) is None:
        whole = list(file_pieces(input_files(request.inputs), request.text_column))
        return iter(whole[skip:]), len(whole)
    found = hub_pieces(name, request.subset, request.split, request.text_column, request.streamed, skip)
    if request.streamed:
        return found, None
    whole = list(found)
    return iter(whole[skip:]), len(whole)


def _piece_file(work: Path, index: int) -> Path:
    return work / f"{index:08d}.tokens"


def _tokenize(request: Request, encoder: Encoder, processes: int, tell: Tell) -> list[Path]:
    """Tokenizes pieces until the input ends or the tokens suffice, and returns their files in order."""
    work, files = request.out / WORK, list[Path]()
    tokens, wanted = 0, request.max_tokens
    while (file := _piece_file(work, len(files))).is_file():
        files.append(file)
        tokens += file.stat().st_size // 2
    pieces, total = _pieces(request, len(files))
    jobs = ((piece, _piece_file(work, index)) for index, piece in enumerate(pieces, start=len(files)))
    tell(len(files), total, tokens)
    for file in _encoded(encoder, jobs, processes, total) if wanted is None or tokens < wanted else ():
        files.append(file)
        tokens += file.stat().st_size // 2
        tell(len(files), total, tokens)
        if wanted is not None and tokens >= wanted:
            break
    return files


def _encoded(encoder: Encoder, jobs: Iterator[tuple[Piece, Path]], processes: int, total: int | None) -> Iterator[Path]:
    """Yields the files of pieces in order, when each is there."""
    if processes == 1 or total == 1:
        for piece, file in jobs:
            encode_piece(encoder, piece, file)
            yield file
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=start_worker, initargs=(encoder,))
    waiting: deque[tuple[Future[tuple[Problem, ...]], Path]] = deque()
    try:
        for piece, file in jobs:
            with without_ctrl_c():
                waiting.append((pool.submit(encode_in_worker, piece, file), file))
            if len(waiting) >= 2 * processes:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    except BaseException:
        for worker in list(pool._processes.values()):  # Ctrl-C once more would end the wait, and leave them waiting
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(future: Future[tuple[Problem, ...]], file: Path) -> Path:
    if problems := future.result():
        raise DataError(problems)
    return file


# -- packing ------------------------------------------------------------------------------------------------------


def _pack(request: Request, files: Sequence[Path], end: int, vocab_size: int, vocabulary: str) -> Meta:
    """Writes the shards, that of validation first, and returns what the meta file says of them."""
    held = sum(file.stat().st_size // 2 for file in files)
    total = held if request.max_tokens is None else min(held, request.max_tokens)
    validation = request.val_tokens or min(request.shard_tokens, total // 10)
    if not 2 <= validation <= total - 2:
        problem = f"must give a validation shard and one to train on, but {total:,} tokens are too few"
        raise DataError([Problem("--input", problem, "give more text, or fewer --val-tokens")])
    sizes = [validation]
    while rest := total - sum(sizes):
        sizes.append(min(rest, request.shard_tokens))
    documents = 0
    for number, tokens in enumerate(_cut(files, sizes)):
        documents += int(np.count_nonzero(tokens == end))
        write_shard(request.out / f"{TRAIN if number else VALIDATION}_{number:06d}.bin", tokens)
    counts = documents, total - validation, validation
    return Meta(request.tokenizer, vocab_size, vocabulary, *counts, request.to_record())


def _cut(files: Sequence[Path], sizes: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Yields the tokens of all files one after the other, cut into arrays of given sizes."""
    waiting, rest = iter(files), np.empty(0, dtype="<u2")
    for size in sizes:
        shard, filled = np.empty(size, dtype="<u2"), 0
        while filled < size:
            if not len(rest):
                rest = np.fromfile(next(waiting), dtype="<u2")
                continue
            part, rest = rest[: size - filled], rest[size - filled :]
            shard[filled : filled + len(part)] = part
            filled += len(part)
        yield shard
