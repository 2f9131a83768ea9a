"""Texts to token ids: separate tokenisation, end-of-sequence on completions, truncation by the DPO reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.chat import Chat, Incomplete, Turns, render
from gpt_opt.training.data.collect import require
from gpt_opt.training.data.demonstrations import NoMask, Piece, pieces
from gpt_opt.training.data.records import Ids, Record


@dataclass(frozen=True)
class SequenceLimits:
    """How long sequences may be.

    Attributes:
        max_length: Tokens of prompt and completion together, end-of-sequence included.
        max_prompt_length: Tokens that a prompt is truncated to when the two are longer than that.
        truncation_side: Which end of such a prompt is truncated; None truncates nothing, and rows that are longer than
            max_length are left out.
        special_tokens: Ids that every prompt starts with, BOS for example, also when it is truncated.
        max_completion_length: Tokens that a completion, or all turns that follow a prompt, are truncated to before
            anything else; None leaves it to the others.
    """

    max_length: int
    max_prompt_length: int
    truncation_side: Literal["left", "right"] | None
    special_tokens: tuple[int, ...] = ()
    max_completion_length: int | None = None

    def truncate_prompt(self, prompt: list[int]) -> list[int]:
        """Returns what is left of a prompt that has to be truncated."""
        excess = max(len(prompt) - self.max_prompt_length, 0)
        first = len(self.special_tokens) if self.truncation_side == "left" else self.max_prompt_length
        return prompt[:first] + prompt[first + excess :]


_CHUNK = 1000


def leading_special_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Returns what a tokenizer puts before every text: the BOS of Llama, Mistral or Gemma, nothing of GPT-2 or Qwen.

    What it puts after a text does not count: completions get their end-of-sequence here.
    """
    with_special, text = (tokenizer(["a"], add_special_tokens=special)["input_ids"][0] for special in (True, False))
    indices = range(len(with_special) - len(text) + 1)
    return tuple(with_special[: next((n for n in indices if with_special[n : n + len(text)] == text), 0)])


def truncate(ids: Ids, limits: SequenceLimits) -> Ids:
    """Truncates a prompt and its completions to the limits: first the prompt, then, if needed, all completions.

    Before that each completion is truncated to `max_completion_length`. Both decisions depend on the longest
    completion, so that all sequences share one prompt, as in the DPO reference.
    """
    prompt, *completions = ids
    completions = [completion[: limits.max_completion_length] for completion in completions]
    longest = max(map(len, completions))
    if len(prompt) + longest > limits.max_length:
        prompt = limits.truncate_prompt(prompt)
    if len(prompt) + longest > limits.max_length:
        room = limits.max_length - limits.max_prompt_length
        completions = [completion[:room] for completion in completions]
    return (prompt, *completions)


def truncate_demonstration(ids: Ids, limits: SequenceLimits) -> Ids:
    """Truncates a demonstration: its prompt only where the first response does not fit, then the end.

    Before that all that follows the prompt is truncated to `max_completion_length`.
    """
    prompt, completion = ids[0], ids[1][: limits.max_completion_length]
    first = next((index for index, token in enumerate(completion) if token < 0), len(completion))
    if len(prompt) + first > limits.max_length:
        prompt = limits.truncate_prompt(prompt)
    completion = completion[: limits.max_length - len(prompt)]
    while completion[-1] < 0:  # context of a response that was truncated away
        completion.pop()
    return prompt, completion


def tokenize(
    records: Sequence[Record], tokenizer: Any, limits: SequenceLimits, counts: Counter[str] | None = None
) -> list[Any]:
    """Tokenizes and truncates records.

    A prompt that is a `Chat` is rendered with the chat template of the tokenizer where it has one.

    Args:
        records: Pairs, or examples.
        tokenizer: Of the model.
        limits: How long sequences may be.
        counts: Where to add how many records had their prompt truncated ("prompts_truncated") and how many a completion
            ("completions_truncated", which then has no end-of-sequence).

    Returns:
        A `TokenizedPair` for each pair, a `TokenizedExample` for each example.

    Raises:
        DataError: If the tokenizer has no end-of-sequence token, a text contains it, or a text has no tokens.
    """
    whole = _encode(records, tokenizer, limits.special_tokens)
    short: list[Ids] = []
    for record, ids in zip(records, whole, strict=True):
        if record.is_text or limits.truncation_side is None:
            short.append(ids)  # a text goes on in further sequences, other rows are left out: see `prepare`
        else:
            short.append((truncate_demonstration if record.is_demonstration else truncate)(ids, limits))
    if counts is not None:
        counts["prompts_truncated"] += sum(len(a[0]) != len(b[0]) for a, b in zip(whole, short, strict=True))
        counts["completions_truncated"] += sum(
            any(len(x) != len(y) for x, y in zip(a[1:], b[1:], strict=True)) for a, b in zip(whole, short, strict=True)
        )
    return [record.with_ids(ids) for record, ids in zip(records, short, strict=True)]


def _encode(records: Sequence[Record], tokenizer: Any, special: tuple[int, ...]) -> list[Ids]:
    """Returns the whole ids of each record, `special` before the prompt and end-of-sequence on the completions."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise DataError([Problem("model.tokenizer_name_or_path", "the tokenizer must have an eos_token, but has none")])
    demonstrations = [record for record in records if record.is_demonstration]
    preferences = [record for record in records if not record.is_demonstration]
    rows = {
        True: iter(_encode_demonstrations(demonstrations, tokenizer, special)),
        False: iter(_encode_preferences(preferences, tokenizer, special)),
    }
    return [next(rows[record.is_demonstration]) for record in records]


def _encode_preferences(records: Sequence[Record], tokenizer: Any, special: tuple[int, ...]) -> list[Ids]:
    eos = tokenizer.eos_token_id
    rendered = _rendered(records, tokenizer)
    columns = [_ids(tokenizer, column) for column in zip(*rendered, strict=True)]
    whole: list[Ids] = list(zip(*columns, strict=True))
    checked = zip(records, rendered, whole, strict=True)
    require(bad for record, texts, ids in checked if (bad := _unusable(record, texts, ids, tokenizer)))
    return [(_started(prompt, special), *([*ids, eos] for ids in completions)) for prompt, *completions in whole]


def _encode_demonstrations(records: Sequence[Any], tokenizer: Any, special: tuple[int, ...]) -> list[Ids]:
    eos = tokenizer.eos_token_id
    found: list[list[Piece]] = []
    whole: list[Ids] = []

    def render() -> Iterator[Problem]:
        for record in records:
            try:
                found.append(pieces(record, tokenizer))
            except _NOT_RENDERED as error:
                yield _not_rendered(record, error)

    def encode() -> Iterator[Problem]:
        texts = iter(_ids(tokenizer, [piece for record in found for piece, _ in record if isinstance(piece, str)]))
        for record, row in zip(records, found, strict=True):
            parts = [(next(texts) if isinstance(piece, str) else piece, learned) for piece, learned in row]
            prompt, ids = _joined(parts)
            if record.is_text:
                prompt, ids = _started_text(ids, special)
            elif bad := _unusable(record, record.texts, (prompt, ids), tokenizer):
                yield bad
            else:
                prompt = _started(prompt, special)
            whole.append((prompt, ids if ids[-1:] == [eos] else [*ids, eos]))

    require(render())
    require(encode())
    return whole


def _joined(parts: Sequence[tuple[list[int], bool]]) -> tuple[list[int], list[int]]:
    """Returns the ids up to the first learned one, and the others, in which `~id` stands for context."""
    prompt: list[int] = []
    completion: list[int] = []
    for ids, learned in parts:
        if learned:
            completion += ids
        elif completion:
            completion += [~token for token in ids]
        else:
            prompt += ids
    return prompt, completion


def _started_text(text: list[int], special: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Returns what a text starts with, which nothing predicts, and the rest of it."""
    if not special:
        return text[:1], text[1:]
    return list(special), text[len(special) :] if tuple(text[: len(special)]) == special else text


def _started(prompt: list[int], special: tuple[int, ...]) -> list[int]:
    """Returns the prompt with what every prompt starts with; the template of a tokenizer may have put it there."""
    return prompt if tuple(prompt[: len(special)]) == special else [*special, *prompt]


def _rendered(records: Sequence[Record], tokenizer: Any) -> list[tuple[str, ...]]:
    """Returns the texts of each record, a `Chat` rendered where the tokenizer has a template."""
    templated = getattr(tokenizer, "chat_template", None)
    problems: list[Problem] = []
    texts: list[tuple[str, ...]] = []
    for record in records:
        prompt, *completions = record.texts
        if templated and isinstance(prompt, Chat):
            try:
                prompt, completions = render(prompt, completions, tokenizer)
            except _NOT_RENDERED as error:
                problems.append(_not_rendered(record, error))
        texts.append((prompt, *completions))
    require(iter(problems))
    return texts


_NOT_RENDERED = (TemplateError, Incomplete, NoMask)


def _not_rendered(record: Record, error: Exception) -> Problem:
    """Returns why the chat template of the tokenizer does not serve for a record: one of `_NOT_RENDERED`."""
    if isinstance(error, Incomplete):
        problem = f"the chat template {error}"
        advice = (
            "take a tokenizer whose template keeps it, or write the row as plain strings, which no template renders"
        )
    elif isinstance(error, NoMask):
        problem = f"the chat template does not show what is learned: {error}"
        advice = "take a template with {% generation %}, or write a row for each response: prompt and completion"
    else:
        problem = f"the chat template refuses it: {error}"
        advice = "change the roles of its messages, or take a tokenizer whose template has them"
    return Problem(_where(record), problem, advice)


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenizes a few texts at a time: what a tokenizer gives besides the ids takes many times their memory."""
    chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
    return [ids for chunk in chunks for ids in tokenizer(list(chunk), add_special_tokens=False)["input_ids"]]


def _where(record: Record) -> str:
    return record.source or f"row with prompt {record.prompt[:40]!r}"


def _unusable(record: Record, rendered: tuple[str, ...], ids: Ids, tokenizer: Any) -> Problem | None:
    where, plain = _where(record), record.texts
    if not all(ids):
        return Problem(where, "its prompt and its completions must each have a token, but one has none")
    eos = tokenizer.eos_token_id
    # A template puts the token between the turns itself; what people wrote must not hold it all the same.
    by_template = rendered != plain or isinstance(plain[1], Turns)
    held = any(tokenizer.eos_token in text for text in plain) if by_template else any(eos in x for x in ids)
    if held:
        return Problem(where, f"must not contain the end-of-sequence token (id {eos}), but does")
    return None
