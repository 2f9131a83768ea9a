"""Texts to token ids: separate tokenisation, end-of-sequence on the answers, truncation by the DPO reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, overload

from jinja2 import TemplateError

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.chat import Chat, Turns, render
from gpt_opt.training.data.collect import require
from gpt_opt.training.data.demonstrations import NoMask, Piece, is_demonstration, is_text, pieces
from gpt_opt.training.data.records import Example, Pair


class Tokenizer(Protocol):
    """What is asked of a tokenizer: `tokenizer(texts)["input_ids"]` and an end-of-sequence id."""

    eos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """Returns a mapping with the token ids of each text under `input_ids`."""


@dataclass(frozen=True)
class Limits:
    """How long sequences may be.

    Attributes:
        max_length: Tokens of prompt and answer together, end-of-sequence included.
        max_prompt_length: Tokens that a prompt is cut to when the two are longer than that.
        keep_end: Which end of such a prompt is kept.
        start: Ids that every prompt starts with, also when it is cut.
        max_completion_length: Tokens that an answer, or all turns that follow a prompt, are truncated to before
            anything else; None leaves it to the others.
    """

    max_length: int
    max_prompt_length: int
    keep_end: bool
    start: tuple[int, ...] = ()
    max_completion_length: int | None = None

    def cut_prompt(self, prompt: list[int]) -> list[int]:
        """Returns what is left of a prompt that has to be cut."""
        excess = max(len(prompt) - self.max_prompt_length, 0)
        first = len(self.start) if self.keep_end else self.max_prompt_length
        return prompt[:first] + prompt[first + excess :]


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """Token ids of one pair; both answers end in end-of-sequence unless they were cut.

    Attributes:
        prompt: Ids of the prompt.
        chosen: Ids of the chosen answer.
        rejected: Ids of the rejected answer.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids of one answer, which ends in end-of-sequence unless it was cut.

    Attributes:
        prompt: Ids of the prompt.
        completion: Ids of the answer. `~id` stands for a token `id` that is only context, as between two answers of a
            dialogue; see `token_ids`.
        desirable: Whether answers like this one are wanted.
    """

    prompt: list[int]
    completion: list[int]
    desirable: bool


Tokenized = TokenizedPair | TokenizedExample

_CHUNK = 1000

Ids = tuple[list[int], ...]
"""Token ids of a prompt and of the answers to it."""


def token_ids(answer: Sequence[int]) -> list[int]:
    """Returns the token ids of an answer, those of context included."""
    return [token if token >= 0 else ~token for token in answer]


def start_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns what a tokenizer puts before every text: the BOS of Llama, Mistral or Gemma, nothing of GPT-2 or Qwen.

    What it puts after a text does not count: answers get their end-of-sequence here.
    """
    with_special, text = (tokenizer(["a"], add_special_tokens=special)["input_ids"][0] for special in (True, False))
    places = range(len(with_special) - len(text) + 1)
    return tuple(with_special[: next((n for n in places if with_special[n : n + len(text)] == text), 0)])


def cut(ids: Ids, limits: Limits) -> Ids:
    """Cuts a prompt and its answers to the limits: first the prompt, then, if still needed, all answers.

    Before that each answer is truncated to `max_completion_length`. Both decisions depend on the longest answer, so
    that all sequences share one prompt, as in the DPO reference.
    """
    prompt, *answers = ids
    answers = [answer[: limits.max_completion_length] for answer in answers]
    longest = max(map(len, answers))
    if len(prompt) + longest > limits.max_length:
        prompt = limits.cut_prompt(prompt)
    if len(prompt) + longest > limits.max_length:
        room = limits.max_length - limits.max_prompt_length
        answers = [answer[:room] for answer in answers]
    return (prompt, *answers)


def cut_demonstration(ids: Ids, limits: Limits) -> Ids:
    """Cuts a demonstration: the prompt only where the first answer does not fit, then the end of what is too long.

    Before that all that follows the prompt is truncated to `max_completion_length`.
    """
    prompt, answer = ids[0], ids[1][: limits.max_completion_length]
    first = next((place for place, token in enumerate(answer) if token < 0), len(answer))
    if len(prompt) + first > limits.max_length:
        prompt = limits.cut_prompt(prompt)
    answer = answer[: limits.max_length - len(prompt)]
    while answer[-1] < 0:  # context of an answer that was cut off
        answer.pop()
    return prompt, answer


def truncate(pair: TokenizedPair, limits: Limits) -> TokenizedPair:
    """Cuts a pair to the limits, as `cut` says."""
    return TokenizedPair(*cut((pair.prompt, pair.chosen, pair.rejected), limits))


@overload
def tokenize(
    records: Sequence[Pair], tokenizer: Tokenizer, limits: Limits, counts: Counter[str] | None = None
) -> list[TokenizedPair]: ...


@overload
def tokenize(
    records: Sequence[Example], tokenizer: Tokenizer, limits: Limits, counts: Counter[str] | None = None
) -> list[TokenizedExample]: ...


def tokenize(
    records: Sequence[Pair] | Sequence[Example],
    tokenizer: Tokenizer,
    limits: Limits,
    counts: Counter[str] | None = None,
) -> list[TokenizedPair] | list[TokenizedExample]:
    """Tokenizes and truncates pairs or judged answers.

    A prompt that is a `Chat` is rendered with the chat template of the tokenizer where it has one.

    Args:
        records: Pairs, or examples.
        tokenizer: Of the model.
        limits: How long sequences may be.
        counts: Where to add how many records had their prompt cut ("prompts_cut") and how many an answer
            ("answers_cut", which then has no end-of-sequence).

    Raises:
        DataError: If the tokenizer has no end-of-sequence token, a text contains it, or a text has no tokens.
    """
    whole = _encode(records, tokenizer, limits.start)
    short: list[Ids] = []
    for record, ids in zip(cast("Sequence[Any]", records), whole, strict=True):
        if is_text(record):
            short.append(ids)  # it goes on in further sequences: see `prepare`
        else:
            short.append(cut_demonstration(ids, limits) if is_demonstration(record) else cut(ids, limits))
    if counts is not None:
        counts["prompts_cut"] += sum(len(a[0]) != len(b[0]) for a, b in zip(whole, short, strict=True))
        counts["answers_cut"] += sum(
            any(len(x) != len(y) for x, y in zip(a[1:], b[1:], strict=True)) for a, b in zip(whole, short, strict=True)
        )
    return from_ids(records, short)


def from_ids(
    records: Sequence[Pair] | Sequence[Example], ids: Iterable[Ids]
) -> list[TokenizedPair] | list[TokenizedExample]:
    """Puts token ids and what else a record holds together again."""
    if records and isinstance(records[0], Example):
        judged = zip(cast("Sequence[Example]", records), ids, strict=True)
        return [TokenizedExample(texts[0], texts[1], record.desirable is not False) for record, texts in judged]
    return [TokenizedPair(*texts) for texts in ids]


def ids_of(item: Tokenized) -> Ids:
    """Returns the ids of the prompt and of the answers to it."""
    if isinstance(item, TokenizedPair):
        return item.prompt, item.chosen, item.rejected
    return item.prompt, item.completion


def texts_of(record: Pair | Example) -> tuple[str, ...]:
    """Returns the prompt of a record and the answers to it."""
    if isinstance(record, Pair):
        return record.prompt, record.chosen, record.rejected
    return record.prompt, record.completion


def _encode(records: Sequence[Pair | Example], tokenizer: Tokenizer, start: tuple[int, ...]) -> list[Ids]:
    """Returns the whole ids of each record, `start` before the prompt and end-of-sequence on the answers."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise DataError([Problem("model.tokenizer_name_or_path", "the tokenizer must have an eos_token, but has none")])
    shown = iter(_demonstrated([record for record in records if is_demonstration(record)], tokenizer, start))
    others = iter(_answered([record for record in records if not is_demonstration(record)], tokenizer, start))
    return [next(shown if is_demonstration(record) else others) for record in records]


def _answered(records: Sequence[Pair | Example], tokenizer: Any, start: tuple[int, ...]) -> list[Ids]:
    eos = tokenizer.eos_token_id
    rendered = _rendered(records, tokenizer)
    columns = [_ids(tokenizer, column) for column in zip(*rendered, strict=True)]
    whole: list[Ids] = list(zip(*columns, strict=True))
    checked = zip(records, rendered, whole, strict=True)
    require(bad for record, texts, ids in checked if (bad := _unusable(record, texts, ids, tokenizer)))
    return [(_started(prompt, start), *([*answer, eos] for answer in answers)) for prompt, *answers in whole]


def _demonstrated(records: Sequence[Any], tokenizer: Any, start: tuple[int, ...]) -> list[Ids]:
    problems: list[Problem] = []
    found: list[list[Piece]] = []
    for record in records:
        try:
            found.append(pieces(record, tokenizer))
        except TemplateError as error:
            problems.append(_refused(record, error))
        except NoMask as error:
            advice = "take a template with {% generation %}, or write a row for each answer: prompt and completion"
            problems.append(
                Problem(_where(record), f"the chat template does not show what is learned: {error}", advice)
            )
    require(iter(problems))
    texts = iter(_ids(tokenizer, [piece for record in found for piece, _ in record if isinstance(piece, str)]))
    whole = [
        _joined([(next(texts) if isinstance(ids, str) else ids, learned) for ids, learned in row]) for row in found
    ]
    whole = [_started_text(ids, start) if is_text(record) else ids for record, ids in zip(records, whole, strict=True)]
    require(
        bad
        for record, ids in zip(records, whole, strict=True)
        if (bad := None if is_text(record) else _unusable(record, texts_of(record), ids, tokenizer))
    )
    eos = tokenizer.eos_token_id
    ended = [(prompt, answer if answer[-1:] == [eos] else [*answer, eos]) for prompt, answer in whole]
    return [
        ids if is_text(record) else (_started(ids[0], start), ids[1])
        for record, ids in zip(records, ended, strict=True)
    ]


def _joined(parts: Sequence[tuple[list[int], bool]]) -> Ids:
    """Returns the ids up to the first learned one, and the others, in which `~id` stands for context."""
    prompt: list[int] = []
    answer: list[int] = []
    for ids, learned in parts:
        if learned:
            answer += ids
        elif answer:
            answer += [~token for token in ids]
        else:
            prompt += ids
    return prompt, answer


def _started_text(ids: Ids, start: tuple[int, ...]) -> Ids:
    """Returns what a text starts with, which nothing predicts, and the rest of it."""
    text = ids[1]
    if not start:
        return text[:1], text[1:]
    return list(start), text[len(start) :] if tuple(text[: len(start)]) == start else text


def _started(prompt: list[int], start: tuple[int, ...]) -> list[int]:
    """Returns the prompt with what every prompt starts with; the template of a tokenizer may have put it there."""
    return prompt if tuple(prompt[: len(start)]) == start else [*start, *prompt]


def _rendered(records: Sequence[Pair | Example], tokenizer: Any) -> list[tuple[str, ...]]:
    """Returns the texts of each record, a `Chat` rendered where the tokenizer has a template."""
    templated = getattr(tokenizer, "chat_template", None)
    problems: list[Problem] = []
    texts: list[tuple[str, ...]] = []
    for record in records:
        prompt, *answers = texts_of(record)
        if templated and isinstance(prompt, Chat):
            try:
                prompt, answers = render(prompt, answers, tokenizer)
            except TemplateError as error:
                problems.append(_refused(record, error))
        texts.append((prompt, *answers))
    require(iter(problems))
    return texts


def _refused(record: Pair | Example, error: TemplateError) -> Problem:
    advice = "change the roles of its messages, or take a tokenizer whose template has them"
    return Problem(_where(record), f"the chat template refuses it: {error}", advice)


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Tokenizes a few texts at a time: what a tokenizer gives besides the ids takes many times their memory."""
    chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
    return [ids for chunk in chunks for ids in tokenizer(list(chunk), add_special_tokens=False)["input_ids"]]


def _where(record: Pair | Example) -> str:
    return record.place or f"row with prompt {record.prompt[:40]!r}"


def _unusable(record: Pair | Example, rendered: tuple[str, ...], ids: Ids, tokenizer: Any) -> Problem | None:
    where, plain = _where(record), texts_of(record)
    if not all(ids):
        return Problem(where, "its prompt and its answers must each have a token, but one has none")
    eos = tokenizer.eos_token_id
    # A template puts the token between the turns itself; what people wrote must not hold it all the same.
    by_template = rendered != plain or isinstance(plain[1], Turns)
    held = any(tokenizer.eos_token in text for text in plain) if by_template else any(eos in x for x in ids)
    if held:
        return Problem(where, f"must not contain the end-of-sequence token (id {eos}), but does")
    return None
