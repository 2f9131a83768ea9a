"""What a row says by its columns: plain texts, dialogues as lists of messages, pairs, single judged answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gpt_opt.training.data.chat import NAMES, Chat, Message, answer_text
from gpt_opt.training.data.collect import BadRow, Record, Row
from gpt_opt.training.data.records import Example, Pair

_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class Columns:
    """Names of the columns.

    Attributes:
        prompt: The prompt.
        chosen: The preferred answer.
        rejected: The other answer.
        completion: The answer of a row that has only one.
        label: Whether that answer is wanted.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    completion: str = "completion"
    label: str = "label"


def plain_pair(row: Row, columns: Columns) -> Pair:
    """Returns the pair of a row of three texts; nothing is stripped from a text or added to it.

    Raises:
        BadRow: If a text is missing, empty or no text, or the answers are equal.
    """
    names = (columns.prompt, columns.chosen, columns.rejected)
    require_texts(row, names)
    prompt, chosen, rejected = (row[name] for name in names)
    if chosen == rejected:
        raise BadRow(f"{names[1]} and {names[2]} must differ, but are equal")
    return Pair(prompt, chosen, rejected)


def record_of(row: Row, columns: Columns) -> Iterator[Record]:
    """Yields the record of a row of any known layout.

    With the columns of chosen and rejected it is a pair, with those of completion and label a judged answer. Texts
    are plain strings, or lists of messages {role, content}; the answers then end in an assistant's message, and what
    comes before it (and the prompt before that) is the dialogue.

    Raises:
        BadRow: If it has no known layout, or a text is missing, empty or no text.
    """
    if columns.chosen in row and columns.rejected in row:
        yield _pair(row, columns)
    elif columns.completion in row and columns.label in row:
        yield _example(row, columns)
    else:
        raise BadRow(
            f"needs the columns {columns.chosen!r} and {columns.rejected!r}, or {columns.completion!r} and "
            f"{columns.label!r} (its keys: {', '.join(map(str, row)) or 'none'})"
        )


def _pair(row: Row, columns: Columns) -> Pair:
    if isinstance(row[columns.chosen], str) or isinstance(row[columns.rejected], str):
        return plain_pair(row, columns)
    dialogue, chosen = dialogue_of(row, columns.prompt, columns.chosen)
    other, rejected = dialogue_of(row, columns.prompt, columns.rejected)
    if dialogue != other:
        raise BadRow(f"{columns.chosen} and {columns.rejected} must continue the same dialogue, but do not")
    if chosen == rejected:
        raise BadRow(f"{columns.chosen} and {columns.rejected} must differ, but are equal")
    return Pair(Chat(dialogue), answer_text(chosen), answer_text(rejected))


def _example(row: Row, columns: Columns) -> Example:
    label = _truth(row[columns.label], columns.label)
    if isinstance(row[columns.completion], str):
        require_texts(row, (columns.prompt, columns.completion))
        return Example(row[columns.prompt], row[columns.completion], label)
    dialogue, answer = dialogue_of(row, columns.prompt, columns.completion)
    return Example(Chat(dialogue), answer_text(answer), label)


def dialogue_of(row: Row, prompt: str, answer: str) -> tuple[list[Message], str]:
    """Returns the messages before the answer, and the answer, which is the last message.

    Args:
        row: The row.
        prompt: Column of the dialogue so far: messages, or one question; may be missing where `answer` holds it all.
        answer: Column of messages that end in the assistant's answer.

    Raises:
        BadRow: If they are no such messages, or the answer is blank.
    """
    messages = _messages(row, answer)
    before = row.get(prompt)
    if isinstance(before, str) and len(messages) == 1:
        require_texts(row, (prompt,))
        messages = [("user", before), *messages]
    elif before is not None and not isinstance(before, str):
        messages = [*_messages(row, prompt), *messages]
    if len(messages) < 2:
        raise BadRow(f"has no {prompt!r}, and {answer!r} no message before the answer")
    (*dialogue, (role, text)) = messages
    if role != "assistant":
        raise BadRow(f"{answer!r} must end in a message of the assistant, but ends in one of the {role}")
    if not text.strip():
        raise BadRow(f"{answer!r} is empty")
    return dialogue, text


def _messages(row: Row, column: str) -> list[Message]:
    found = row.get(column)
    if not isinstance(found, list) or not found or not all(_is_message(item) for item in found):
        shown = json.dumps(found, default=str)[:60]
        roles = ", ".join(NAMES)
        raise BadRow(f"{column!r} must be a list of messages {{role, content}} with roles {roles}, but is {shown}")
    return [(item["role"], item["content"]) for item in found]


def _is_message(item: Any) -> bool:
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("role", "content")):
        return False
    return item["role"] in NAMES and not _has_half_pair(item["content"])


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
        return f"{column!r} must be Unicode text, but holds half of a surrogate pair"
    return "" if row[column].strip() else f"{column!r} is empty"


def _has_half_pair(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
