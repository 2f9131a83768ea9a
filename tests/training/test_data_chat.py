"""Dialogues: the plain rendering, and the chat template of a tokenizer that has one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from gpt_opt.errors import DataError
from gpt_opt.training.data.chat import Chat, render, response_text
from gpt_opt.training.data.records import Pair, fingerprint_pairs
from gpt_opt.training.data.tokenize import SequenceLimits, tokenize
from gpt_opt.training.models.byte_tokenizer import END_OF_TEXT, byte_tokenizer

LIMITS = SequenceLimits(400, 200, truncation_side="right")
CHAT = Chat([("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")])
PAIR = Pair(CHAT, response_text("good"), response_text(" bad"))

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}"
PROMPTED = TURNS + "{% if add_generation_prompt %}[assistant]{% endif %}"
THINKING = TURNS + "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
NO_END = "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}[assistant]"


def templated(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def decoded(tokenizer: Any, pair: Pair) -> tuple[str, str, str]:
    (tokens,) = tokenize([pair], tokenizer, LIMITS)
    assert tokens.chosen[-1] == tokens.rejected[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in tokens.chosen[:-1]
    return (
        tokenizer.decode(tokens.prompt),
        tokenizer.decode(tokens.chosen[:-1]),
        tokenizer.decode(tokens.rejected[:-1]),
    )


def test_without_a_template_the_rendering_is_plain() -> None:
    assert CHAT == "\n\nSystem: S\n\nHuman: U\n\nAssistant: A\n\nHuman: V\n\nAssistant:"
    assert decoded(byte_tokenizer(), PAIR) == (str(CHAT), " good", "  bad")
    plain = Pair(str(CHAT), PAIR.chosen, PAIR.rejected)
    assert fingerprint_pairs([PAIR], []) == fingerprint_pairs([plain], [])


def test_a_template_is_used_and_its_end_of_sequence_is_not_doubled() -> None:
    end = END_OF_TEXT + "\n"
    start = f"[system]S{end}[user]U{end}[assistant]A{end}[user]V{end}"
    assert decoded(templated(PROMPTED), PAIR) == (start + "[assistant]", "good", " bad")
    assert decoded(templated(THINKING), PAIR) == (start + "[assistant]", "good", " bad")


def test_what_a_template_puts_after_an_answer_stays() -> None:
    template = NO_END.removesuffix("[assistant]") + "{% if add_generation_prompt %}[assistant]{% endif %}"
    assert render(CHAT, [PAIR.chosen], templated(template)) == (
        "[system]S;[user]U;[assistant]A;[user]V;[assistant]",
        ["good;"],
    )


def test_a_plain_prompt_is_left_alone_by_a_template() -> None:
    assert decoded(templated(PROMPTED), Pair("p", "c", "r")) == ("p", "c", "r")


def test_every_dialogue_that_a_template_refuses_is_named() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    pairs = [replace(PAIR, source="a.jsonl:1"), Pair(Chat([("user", "U")]), " a", " b"), PAIR]
    with pytest.raises(DataError) as caught:
        tokenize(pairs, templated(strict + PROMPTED), LIMITS)
    first, second = caught.value.problems
    assert (first.where, second.where) == ("a.jsonl:1", f"row with prompt {str(CHAT)[:40]!r}")
    assert "the chat template refuses it: System role not supported" in str(first)


def test_people_cannot_write_the_end_of_sequence() -> None:
    for pair in (
        Pair(Chat([("user", f"a{END_OF_TEXT}")]), " b", " c"),
        Pair(CHAT, f" b{END_OF_TEXT}", " c"),
    ):
        for tokenizer in (templated(PROMPTED), byte_tokenizer()):
            with pytest.raises(DataError, match="must not contain the end-of-sequence token"):
                tokenize([pair], tokenizer, LIMITS)
