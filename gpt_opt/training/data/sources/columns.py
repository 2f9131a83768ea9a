"""What a row says by its columns: pairs, unpaired preferences, demonstrations; as texts or lists of messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpt_opt.training.data.chat import NAMES, Chat, Message, Turns, response_text
from gpt_opt.training.data.collect import BadRow, Row, UnknownLayout
from gpt_opt.training.data.records import Example, Pair, Record

TEXT = "text"
"""The one column of a file of plain text, whatever `Columns` says."""

_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class Columns:
    """Names of the columns.

    Attributes:
        prompt: The prompt.
        chosen: The preferred completion.
        rejected: The other completion.
        completion: The completion of a row that has only one.
        label: Whether that completion is wanted.
        text: A text that is learned whole.
        messages: A dialogue, of which the assistant's messages are learned.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    completion: str = "completion"
    label: str = "label"
    text: str = "text"
    messages: str = "messages"


def record_of(row: Row, columns: Columns) -> Iterator[Record]:
    """Yields the record of a row of any known layout.

    With the columns of chosen and rejected it is a pair, with those of completion and label an unpaired preference. A
    demonstration has messages (or ShareGPT's `conversations`), a completion without a label, Alpaca's `instruction`,
    `output` and perhaps `input`, or a text. Prompts and completions are plain strings, or lists of messages {role,
    content}; the completions then end in an assistant's message, and what comes before it (and the prompt before that)
    is the dialogue.

    Raises:
        BadRow: If it has no known layout, or a text is missing, empty or no text.
    """
    has = {column for column, value in row.items() if value is not None}
    dialogue = next((name for name in (columns.messages, _SHAREGPT) if name in has), None)
    if columns.chosen in row or columns.rejected in row:
        yield _pair(row, columns)
    elif columns.completion in row and columns.label in row:
        yield _labelled(row, columns)
    elif columns.completion in has and dialogue is None:
        yield _completed(row, columns)
    elif dialogue is not None:
        yield _demonstrated(_messages(row, dialogue), 0, dialogue)
    elif {"instruction", "output"} <= has:
        yield _instructed(row)
    elif columns.text in has or TEXT in has:
        name = columns.text if columns.text in has else TEXT
        require_texts(row, (name,))
        yield Example("", row[name], None)
    else:
        raise UnknownLayout(
            f"needs the columns {columns.chosen!r} and {columns.rejected!r}, {columns.completion!r} (with "
            f"{columns.label!r} for an unpaired preference), {columns.messages!r} or {columns.text!r} "
            f"(its keys: {', '.join(map(str, row)) or 'none'})"
        )


_SHAREGPT = "conversations"


def _instructed(row: Row) -> Example:
    given = [name for name in ("instruction", "input") if name == "instruction" or row.get(name)]
    require_texts(row, (*given, "output"))
    return Example(
        Chat([("user", "\n\n".join(row[name] for name in given))]), Turns([("assistant", row["output"])]), None
    )


def _completed(row: Row, columns: Columns) -> Example:
    if isinstance(row[columns.completion], str):
        require_texts(row, (columns.prompt, columns.completion))
        return Example(row[columns.prompt], row[columns.completion], None)
    dialogue, _ = dialogue_of(row, columns.prompt, columns.completion)
    responses = _messages(row, columns.completion)
    before = len(dialogue) + 1 - len(responses)
    return _demonstrated([*dialogue, responses[-1]], before, columns.completion)


def _demonstrated(messages: list[Message], before: int, column: str) -> Example:
    """Returns the dialogue from the first response of the assistant that comes after `before` messages."""
    indices = [index for index, (role, _) in enumerate(messages) if role == "assistant" and index >= before]
    if not indices:
        raise BadRow(f"{column!r} must have a message of the assistant, but has none")
    if blank := [index for index in indices if not messages[index][1].strip()]:
        raise BadRow(f"{column!r} must have no empty message of the assistant, but message {blank[0]} is")
    first, last = indices[0], indices[-1]
    return Example(Chat(messages[:first]), Turns(messages[first : last + 1]), None)


def _pair(row: Row, columns: Columns) -> Pair:
    if isinstance(row.get(columns.chosen), str) or isinstance(row.get(columns.rejected), str):
        names = (columns.prompt, columns.chosen, columns.rejected)
        require_texts(row, names)
        pair = Pair(*(row[name] for name in names))  # nothing is stripped from a text or added to it
    else:
        dialogue, chosen = dialogue_of(row, columns.prompt, columns.chosen)
        other, rejected = dialogue_of(row, columns.prompt, columns.rejected)
        if dialogue != other:
            raise BadRow(f"{columns.chosen} and {columns.rejected} must continue the same dialogue, but do not")
        pair = Pair(Chat(dialogue), response_text(chosen), response_text(rejected))
    if pair.chosen == pair.rejected:
        raise BadRow(f"{columns.chosen} and {columns.rejected} must differ, but are equal")
    return pair


def _labelled(row: Row, columns: Columns) -> Example:
    label = _truth(row[columns.label], columns.label)
    if isinstance(row[columns.completion], str):
        require_texts(row, (columns.prompt, columns.completion))
        return Example(row[columns.prompt], row[columns.completion], label)
    dialogue, response = dialogue_of(row, columns.prompt, columns.completion)
    return Example(Chat(dialogue), response_text(response), label)


def dialogue_of(row: Row, prompt: str, completion: str) -> tuple[list[Message], str]:
    """Returns the messages before the response, and the response, which is the last message.

    Args:
        row: The row.
        prompt: Column of the dialogue so far: messages, or one question; missing where `completion` holds it all.
        completion: Column of messages that end in the assistant's response.

    Raises:
        BadRow: If they are no such messages, or the response is blank.
    """
    messages = _messages(row, completion)
    before = row.get(prompt)
    if isinstance(before, str) and (len(messages) == 1 or messages[0][0] == "assistant"):
        require_texts(row, (prompt,))
        messages = [("user", before), *messages]
    elif before is not None and not isinstance(before, str):
        messages = [*_messages(row, prompt), *messages]
    if len(messages) < 2:
        raise BadRow(f"has no {prompt!r}, and {completion!r} no message before the response")
    (*dialogue, (role, text)) = messages
    if role != "assistant":
        raise BadRow(f"{completion!r} must end in a message of the assistant, but ends in one of the {role}")
    if not text.strip():
        raise BadRow(f"{completion!r} is empty")
    return dialogue, text


def _messages(row: Row, column: str) -> list[Message]:
    found = row.get(column)
    if not isinstance(found, list) or not found or not all(_is_message(item) for item in found):
        shown = json.dumps(found, default=str)[:60]
        roles = ", ".join(NAMES)
        raise BadRow(f"{column!r} must be a list of messages {{role, content}} with roles {roles}, but is {shown}")
    return [_role_and_content(item) for item in found]


_ROLES = {"human": "user", "gpt": "assistant"}
"""What ShareGPT calls roles."""


_REASONING = ("reasoning_content", "thinking")
"""Keys under which some data keep what an assistant thought before it answered."""


def _role_and_content(item: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the role and the content of a message; reasoning that has a key of its own begins the content."""
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    reasoning = next((item[key] for key in _REASONING if item.get(key)), None)
    if isinstance(reasoning, str) and isinstance(content, str):
        content = f"<think>\n{reasoning.strip()}\n</think>\n\n{content}"
    return _ROLES.get(role, role) if isinstance(role, str) else role, content


def _is_message(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    role, content = _role_and_content(item)
    return role in NAMES and isinstance(content, str) and not _has_half_pair(content)


def _truth(value: Any, column: str) -> bool:
    found = _TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise BadRow(f"{column!r} must be true or false, but is {json.dumps(value, default=str)[:60]}")
    return found


def require_texts(row: Row, columns: tuple[str, ...]) -> None:
    """Requires that each column is a text that is not blank.

    Raises:
        BadRow: With everything that is wrong.
    """
    if wrong := [text for column in columns if (text := _wrong(row, column))]:
        raise BadRow("; ".join(wrong))


def _wrong(row: Row, column: str) -> str:
    if column not in row:
        return f"has no {column!r} (its keys: {', '.join(map(str, row)) or 'none'})"
    if not isinstance(row[column], str):
        return f"{column!r} must be a string, but is {json.dumps(row[column], default=str)[:60]}"
    if _has_half_pair(row[column]):
        return f"{column!r} must be Unicode text, but holds a lone surrogate"
    return "" if row[column].strip() else f"{column!r} is empty"


def _has_half_pair(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
