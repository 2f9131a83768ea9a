"""The embedded tokenizer: bytes are ids, every text comes back, and the files carry it over."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gpt_opt.training.models.byte_tokenizer import END_OF_TEXT, PADDING, VOCAB_SIZE, byte_tokenizer

TOKENIZER = byte_tokenizer()
SAMPLES = ["", " ", "\x00\x7f\n\t ", "don't , stop .", "Grüße, 世界 🌍", "\ufeffa\u0301\u2028\r\n", "  two  spaces  "]

texts = st.text().filter(lambda text: END_OF_TEXT not in text and PADDING not in text)


def ids(text: str, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> list[int]:
    return list(tokenizer(text)["input_ids"])


@given(texts)
def test_ids_are_the_bytes_and_come_back(text: str) -> None:
    assert ids(text) == list(text.encode())
    assert TOKENIZER.decode(ids(text)) == text


@pytest.mark.parametrize("text", SAMPLES)
def test_awkward_texts_come_back(text: str) -> None:
    assert ids(text) == list(text.encode())
    assert TOKENIZER.decode(ids(text)) == text


@given(texts, texts)
def test_a_text_can_be_tokenized_in_parts(first: str, second: str) -> None:
    assert ids(first) + ids(second) == ids(first + second)


def test_special_tokens() -> None:
    assert len(TOKENIZER) == VOCAB_SIZE == 258
    assert (TOKENIZER.eos_token, TOKENIZER.eos_token_id) == (END_OF_TEXT, 256)
    assert (TOKENIZER.pad_token, TOKENIZER.pad_token_id) == (PADDING, 257)
    assert TOKENIZER.bos_token is None
    assert ids(f"a {END_OF_TEXT} b") == [97, 32, 256, 32, 98]
    assert TOKENIZER.decode([97, 32, 256, 98, 257], skip_special_tokens=True) == "a b"


def test_a_batch_is_padded_with_the_padding_token() -> None:
    batch = TOKENIZER(["abc", "d"], padding=True)
    assert batch["input_ids"] == [[97, 98, 99], [100, 257, 257]]
    assert batch["attention_mask"] == [[1, 1, 1], [1, 0, 0]]


def test_files_carry_it_over(tmp_path: Path) -> None:
    made = byte_tokenizer()  # a fresh one: padding a batch leaves its setting in a tokenizer, and so in its files
    made.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert loaded.get_vocab() == made.get_vocab()
    assert loaded.special_tokens_map == made.special_tokens_map
    assert loaded.backend_tokenizer.to_str() == made.backend_tokenizer.to_str()
    for text in [*SAMPLES, f"{END_OF_TEXT}x {PADDING}", "a b", "it 's , fine ."]:
        assert ids(text, loaded) == ids(text)
        assert loaded.decode(ids(text)) == TOKENIZER.decode(ids(text))
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "again" / "tokenizer.json").read_bytes()
