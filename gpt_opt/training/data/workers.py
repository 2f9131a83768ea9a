"""The processes of `gptopt prepare`: each tokenizes one piece after the other. They import no torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt_opt.errors import DataError, Problem
from gpt_opt.records.io import write_bytes
from gpt_opt.training.data.encode import Encoder
from gpt_opt.training.data.pieces import Piece

_encoder: Encoder


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Keeps Ctrl-C from the processes that the block starts, from their first import on: it is for this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(encoder: Encoder) -> None:
    """Prepares a process, which then ends when the one that started it does, however that ended."""
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = encoder


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def encode_in_worker(piece: Piece, file: Path) -> tuple[Problem, ...]:
    """Tokenizes a piece as `encode_piece` does; returns what is wrong with it."""
    try:
        encode_piece(_encoder, piece, file)
    except DataError as error:  # which does not pass between processes
        return error.problems
    return ()


def encode_piece(encoder: Encoder, piece: Piece, file: Path) -> None:
    """Writes the tokens of a piece to a file of uint16, whole or not at all; one that is there stays.

    Raises:
        DataError: If the piece cannot be read.
    """
    if file.is_file():
        return
    tokens = encoder.tokens(piece.texts(), piece.starts_document)
    write_bytes(file, tokens.astype("<u2").tobytes())
