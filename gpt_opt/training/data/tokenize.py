"""Pairs to token ids: separate tokenisation, end-of-sequence on the answers, truncation by the DPO reference."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.records import Pair

log = logging.getLogger(__name__)


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
    """

    max_length: int
    max_prompt_length: int
    keep_end: bool


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


def truncate(pair: TokenizedPair, limits: Limits) -> TokenizedPair:
    """Cuts a pair to the limits as the DPO reference does: first the prompt, then, if still needed, both answers.

    Both decisions depend on the longer answer, so that the two sequences share one prompt.
    """
    prompt, longest = pair.prompt, max(len(pair.chosen), len(pair.rejected))
    if len(prompt) + longest > limits.max_length:
        size = limits.max_prompt_length
        prompt = prompt[-size:] if limits.keep_end else prompt[:size]
    if len(prompt) + longest <= limits.max_length:
        return TokenizedPair(prompt, pair.chosen, pair.rejected)
    room = limits.max_length - limits.max_prompt_length
    return TokenizedPair(prompt, pair.chosen[:room], pair.rejected[:room])


def tokenize(pairs: Sequence[Pair], tokenizer: Tokenizer, limits: Limits) -> list[TokenizedPair]:
    """Tokenizes and truncates pairs, and says in one line how many were cut.

    Raises:
        DataError: If the tokenizer has no end-of-sequence token, a text contains it, or a prompt has no tokens.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise DataError([Problem("model.tokenizer_name_or_path", "the tokenizer must have an eos_token, but has none")])
    columns = [_ids(tokenizer, (getattr(pair, name) for pair in pairs)) for name in ("prompt", "chosen", "rejected")]
    whole = [TokenizedPair(*ids) for ids in zip(*columns, strict=True)]
    if problems := [p for text, pair in zip(pairs, whole, strict=True) if (p := _unusable(text, pair, eos))]:
        raise DataError(problems)
    ended = [TokenizedPair(pair.prompt, [*pair.chosen, eos], [*pair.rejected, eos]) for pair in whole]
    cut = [truncate(pair, limits) for pair in ended]
    _report(ended, cut, limits)
    return cut


def _ids(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def _unusable(text: Pair, pair: TokenizedPair, eos: int) -> Problem | None:
    where = f"pair with prompt {text.prompt[:40]!r}"
    if not (pair.prompt and pair.chosen and pair.rejected):
        return Problem(where, "prompt, chosen and rejected must each have a token, but one has none")
    if eos in pair.prompt or eos in pair.chosen or eos in pair.rejected:
        return Problem(where, f"must not contain the end-of-sequence token (id {eos}), but does")
    return None


def _report(whole: Sequence[TokenizedPair], cut: Sequence[TokenizedPair], limits: Limits) -> None:
    prompts = sum(len(before.prompt) != len(after.prompt) for before, after in zip(whole, cut, strict=True))
    answers = sum(
        len(before.chosen) + len(before.rejected) != len(after.chosen) + len(after.rejected)
        for before, after in zip(whole, cut, strict=True)
    )
    if prompts or answers:
        log.info(
            "of %d pairs, %d prompts were cut to %d tokens and the answers of %d pairs to %d (end-of-sequence lost)",
            len(whole),
            prompts,
            limits.max_prompt_length,
            answers,
            limits.max_length - limits.max_prompt_length,
        )
