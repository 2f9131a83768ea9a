"""Demonstrations in pieces: what fine-tuning learns, and what is only context."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from gpt_opt.training.data.chat import Chat, Turns, plain_parts, rendered, require_complete, without_end
from gpt_opt.training.data.encode import blocks_of
from gpt_opt.training.data.records import Example

Piece = tuple[str | list[int], bool]
"""A text, or the ids that a template gave, and whether it is learned."""

_MARKS_RESPONSES = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PIECE = 1 << 16
"""Characters of a text that are tokenized at once, about: a tokenizer takes many times its memory."""


class NoMask(Exception):
    """A chat template that does not say which of its tokens an assistant wrote; the message says why."""


def pieces(example: Example, tokenizer: Any) -> list[Piece]:
    """Returns a demonstration in pieces, without the end-of-sequence token at its end.

    Of a dialogue all messages of the assistant from `completion` on are learned. What belongs to them the chat template
    of the tokenizer marks (`{% generation %}`), or else the renderings of the dialogue up to each of them say it: from
    the prompt for the message to the end of the rendering with it. Without a template the rendering is the plain one.
    An example that is a text is learned whole.

    Raises:
        NoMask: If the template neither marks messages nor renders a dialogue alike when more follows.
        Incomplete: If the template leaves out part of what is learned.
        jinja2.TemplateError: If the template refuses the dialogue.
    """
    prompt, completion, template = example.prompt, example.completion, _template(tokenizer)
    if not (template and isinstance(prompt, Chat) and isinstance(completion, Turns)):
        if example.is_text:
            return [(piece, True) for piece in blocks_of(prompt + completion, _PIECE)]
        parts = plain_parts(completion.messages) if isinstance(completion, Turns) else [(completion, True)]
        return [(str(prompt), False), *parts]
    messages = [{"role": role, "content": content} for role, content in (*prompt.messages, *completion.messages)]
    whole = str(rendered(tokenizer, messages))
    require_complete(whole, (content for role, content in completion.messages if role == "assistant"))
    if example.is_text:
        return [(piece, True) for piece in blocks_of(without_end(whole, tokenizer.eos_token), _PIECE)]
    if _MARKS_RESPONSES.search(template):
        return _marked(messages, len(prompt.messages), tokenizer)
    return list(_rendered(messages, len(prompt.messages), whole, tokenizer))


def _template(tokenizer: Any) -> str | None:
    return tokenizer.get_chat_template() if getattr(tokenizer, "chat_template", None) else None


def mask_method(tokenizer: Any) -> str:
    """Returns how `pieces` finds out what is learned of a dialogue."""
    template = _template(tokenizer)
    if not template:
        return "the plain rendering, since the tokenizer has no chat template"
    return "the chat template's marks" if _MARKS_RESPONSES.search(template) else "the chat template, message by message"


def _marked(messages: Sequence[dict[str, str]], first: int, tokenizer: Any) -> list[Piece]:
    out = rendered(tokenizer, messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    runs = [
        ([token for _, token in run], bool(learned))
        for learned, run in groupby(
            zip(out["assistant_masks"], out["input_ids"], strict=True), key=lambda pair: pair[0]
        )
    ]
    responses = [index for index, (_, learned) in enumerate(runs) if learned]
    if len(responses) != sum(message["role"] == "assistant" for message in messages):
        raise NoMask("its {% generation %} does not mark each message of the assistant once")
    earlier = sum(message["role"] == "assistant" for message in messages[:first])
    start, end = responses[earlier], responses[-1]
    found: list[Piece] = [(ids, learned and index >= start) for index, (ids, learned) in enumerate(runs[: end + 1])]
    return [*found[:-1], (_without_end(runs[end][0], tokenizer), True)]


def _without_end(ids: list[int], tokenizer: Any) -> list[int]:
    """Does with ids what `without_end` does with a text."""
    ended = len(ids)
    while ended and not tokenizer.decode([ids[ended - 1]]).strip():
        ended -= 1
    return ids[: ended - 1] if ended and ids[ended - 1] == tokenizer.eos_token_id else ids


def _rendered(messages: Sequence[dict[str, str]], first: int, whole: str, tokenizer: Any) -> Iterator[Piece]:
    def render(count: int, asks: bool = False) -> str:
        return str(rendered(tokenizer, messages[:count], asks))

    def before(index: int) -> str:
        if index:
            return render(index, asks=True)
        # No template renders a dialogue without messages: the first one begins where another would differ.
        other = "b" if messages[0]["content"].lstrip().startswith("a") else "a"
        return str(rendered(tokenizer, [{"role": "assistant", "content": other}]))

    done = 0
    for index in range(first, len(messages)):
        if messages[index]["role"] != "assistant":
            continue
        through = render(index + 1)
        if not whole.startswith(through):
            raise NoMask("it renders a message of the assistant in another way when more follows")
        start = max(done, len(os.path.commonprefix([before(index), through])))  # noqa: RUF071
        yield whole[done:start], False
        done = len(through)
        response = whole[start:done]
        yield response if index + 1 < len(messages) else without_end(response, tokenizer.eos_token), True
