"""Dialogues as prompts: remembered message by message, rendered plainly or by the template of a tokenizer."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Any

NAMES = {"system": "System", "user": "Human", "assistant": "Assistant"}
"""What the plain rendering calls each role; the names of Anthropic's dialogues (Bai et al. 2204.05862)."""

Message = tuple[str, str]
"""Role and content."""


class Incomplete(Exception):
    """A chat template that leaves out part of a response, as some do with the reasoning; the message says so."""


_TODAY = datetime(2024, 7, 26)
"""The date for templates that write today's into a dialogue: a run has the same tokens on every day."""

_STRFTIME = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


def rendered(tokenizer: Any, messages: Sequence[dict[str, str]], asks: bool = False, **how: Any) -> Any:
    """Returns what the chat template of a tokenizer makes of messages: the same on every day.

    Args:
        tokenizer: One with a chat template.
        messages: The dialogue.
        asks: Whether the assistant's turn comes next.
        how: Other arguments of `apply_chat_template`, by default those for a text.
    """
    how = {"tokenize": False, **how}
    template = _on_one_day(tokenizer.get_chat_template())
    return tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=asks, **how)


@cache
def _on_one_day(template: str) -> str:
    return _STRFTIME.sub(lambda call: repr(_TODAY.strftime(call[2])), template)


class Chat(str):
    r"""A dialogue that an assistant is to continue; as a string, its plain rendering.

    Being a text, it goes wherever a prompt goes; only the step that has a tokenizer looks at the messages.
    The plain rendering of each message is `\n\nHuman: ...`, `\n\nAssistant: ...` or `\n\nSystem: ...`, then comes
    `\n\nAssistant:`. A response to it starts with one space, as `response_text` puts it.

    Args:
        messages: Roles, keys of `NAMES`, and contents.
    """

    __slots__ = ("messages",)
    messages: tuple[Message, ...]

    def __new__(cls, messages: Iterable[Message]) -> Chat:  # noqa: D102
        kept = tuple(messages)
        chat = super().__new__(cls, "".join(f"\n\n{NAMES[role]}: {content}" for role, content in kept) + RESPONSE)
        chat.messages = kept
        return chat


class Turns(str):
    """What follows a `Chat`: an assistant's message, and any others up to the last one of the assistant.

    As a string, its plain rendering; like a response, it starts with one space.

    Args:
        messages: Roles and contents, the first and the last of the assistant.
    """

    __slots__ = ("messages",)
    messages: tuple[Message, ...]

    def __new__(cls, messages: Iterable[Message]) -> Turns:  # noqa: D102
        kept = tuple(messages)
        turns = super().__new__(cls, "".join(text for text, _ in plain_parts(kept)))
        turns.messages = kept
        return turns


def plain_parts(messages: Sequence[Message]) -> Iterator[Part]:
    """Yields the plain rendering of `Turns`: each message of the assistant, learned, and what comes between two."""
    between: list[Message] = []
    for role, content in messages:
        if role != "assistant":
            between.append((role, content))
            continue
        if between:
            yield str(Chat(between)), False
        between = []
        yield response_text(content), True


Part = tuple[str, bool]
"""A piece of a text, and whether it is learned or only context."""


class Document(str):
    """The text of a whole file, of which the end can be held out."""

    __slots__ = ()


RESPONSE = f"\n\n{NAMES['assistant']}:"
"""The end of every plain rendering: the assistant's turn."""


def response_text(content: str) -> str:
    """Returns the response to a `Chat` as a plain text that follows the plain rendering."""
    return f" {content}"


def question(text: str) -> str:
    """Returns the plain rendering of a dialogue of one question, as a plain text."""
    return f"\n\n{NAMES['user']}: {text}{RESPONSE}"


def render(chat: Chat, responses: Sequence[str], tokenizer: Any) -> tuple[str, list[str]]:
    """Renders a dialogue and the responses to it with the chat template of a tokenizer.

    Args:
        chat: The dialogue.
        responses: As `response_text` returns them.
        tokenizer: One with a chat template.

    Returns:
        The prompt, and what follows it for each response, without the end-of-sequence token that a template may put
        there. Where a template renders the dialogue differently with a response to it, the prompt ends where the two
        begin to differ.

    Raises:
        Incomplete: If the template leaves out part of a response.
    """
    history = [{"role": role, "content": content} for role, content in chat.messages]
    texts = [rendered(tokenizer, history, asks=True)]
    for response in responses:
        turn = {"role": "assistant", "content": response.removeprefix(" ")}
        texts.append(rendered(tokenizer, [*history, turn]))
        require_complete(texts[-1], [turn["content"]])
    prompt = os.path.commonprefix(texts)  # noqa: RUF071
    return prompt, [without_end(text[len(prompt) :], tokenizer.eos_token) for text in texts[1:]]


def require_complete(text: str, responses: Iterable[str]) -> None:
    """Checks that a rendering holds all of some responses; blanks may differ.

    Raises:
        Incomplete: If it does not: what is left out would not be learned, and nothing would show it.
    """
    squeezed = "".join(text.split())
    for response in responses:
        if "".join(response.split()) not in squeezed:
            raise Incomplete(f"leaves out part of the response {response[:40]!r}, such as its reasoning")


def without_end(text: str, eos: str) -> str:
    """Returns a text without the end-of-sequence token, and blanks after it, that a template may put at its end."""
    ended = text.rstrip()
    return ended.removesuffix(eos) if ended.endswith(eos) else text
