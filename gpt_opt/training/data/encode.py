"""Text to tokens for pretraining: every document starts with an end-of-text token, special tokens in it are text."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_opt.errors import DataError, Problem

BLOCK_CHARACTERS = 1 << 18
"""A longer document is tokenized in blocks that end with lines: tokenizers take many times a text's memory."""


class Encoder:
    """Tokenizes documents.

    Args:
        tokenizer: A fast tokenizer of transformers.
        name: What to call it.

    Attributes:
        end: Id of the token before every document: end of sequence, or else beginning of sequence.

    Raises:
        DataError: If it is no fast tokenizer or has no such token.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        ends = [tokenizer.eos_token_id, tokenizer.bos_token_id]
        end = next((item for item in ends if item is not None), None)
        if backend is None or end is None:
            problem = f"must have an end-of-text token, but {name} has none"
            if backend is None:
                problem = f"must be a fast tokenizer of transformers, but {name} is not"
            raise DataError([Problem("tokenizer", problem, "take another one, such as gpt2 or bytes")])
        self.end: int = end
        self._backend = copy.deepcopy(backend)
        self._backend.encode_special_tokens = True  # "<|endoftext|>" in a text is that text
        self._backend.no_truncation()
        self._backend.no_padding()

    def tokens(self, documents: Iterable[str], first_is_new: bool = True) -> NDArray[np.int64]:
        """Returns documents back to back, each after `end`.

        Args:
            documents: Texts.
            first_is_new: False where the first one continues a document that began elsewhere.
        """
        parts, blocks, waiting = list[NDArray[np.int64]](), list[tuple[bool, str]](), 0
        for index, text in enumerate(documents):
            for number, block in enumerate(blocks_of(text, BLOCK_CHARACTERS)):
                blocks.append((number == 0 and (index > 0 or first_is_new), block))
                waiting += len(block)
                if waiting >= BLOCK_CHARACTERS:
                    parts += self._encode(blocks)
                    blocks, waiting = [], 0
        return np.concatenate([*parts, *self._encode(blocks), np.empty(0, dtype=np.int64)])

    def _encode(self, blocks: list[tuple[bool, str]]) -> Iterator[NDArray[np.int64]]:
        encoded = self._backend.encode_batch_fast([text for _, text in blocks], add_special_tokens=False)
        for (is_start, _), block in zip(blocks, encoded, strict=True):
            yield np.array([*([self.end] if is_start else []), *block.ids], dtype=np.int64)


def blocks_of(text: str, characters: int) -> Iterator[str]:
    """Yields a text in blocks that end with a line, where it has lines, each of few more than so many characters."""
    start = 0
    while len(text) - start > characters and (end := line_start(text, start + characters)) < len(text):
        yield text[start:end]
        start = end
    yield text[start:]


def line_start(text: str, position: int) -> int:
    """Returns where the next line with no white space before it starts, from `position` on; else the end of the text.

    There the tokens of GPT-2 end too, so that the parts of a text have the tokens of the whole.
    """
    while 0 <= (position := text.find("\n", position)) < len(text) - 1:
        position += 1
        if not text[position].isspace():
            return position
    return len(text)


def vocabulary_sha256(tokenizer: Any) -> str:
    """Returns the SHA-256 of the tokens of a tokenizer with their ids."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
