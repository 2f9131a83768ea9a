"""Preference data sets that people publish, each in its own layout, and data of one's own in a usual one.

Every builder takes `path`, `subset` and `split` as `read_rows` does, `max_samples` (only
the first so many records of a split, before anything is held out; None takes all), and `validation_split`: the fraction
of the prompts that is held out, in (0, 1), or the name of a split. Each raises `DataError` for data that cannot be
read and for bad rows, which are all named. What the tokenizer cannot take of published data is left out later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import combinations

from gpt_opt.config.checks.data import TRAIN
from gpt_opt.training.data.chat import RESPONSE, Chat, question, response_text
from gpt_opt.training.data.collect import (
    BadRow,
    Convert,
    Dropped,
    Row,
    assemble,
    collect,
    more_rows,
    split_records,
)
from gpt_opt.training.data.records import Data, Pair, Record
from gpt_opt.training.data.sources.columns import Columns, dialogue_of, record_of, require_texts
from gpt_opt.training.data.sources.html import plain_text
from gpt_opt.training.data.sources.layouts import require_layout
from gpt_opt.training.data.sources.rows import read_rows

EQUAL, BLANK, TIE = "equal completions", "empty text", "completions with equal scores"
OTHER_PROMPT = "rejected completion of another prompt"

Found = Iterator[Record | Dropped]


def build_hf(
    path: str,
    subset: str | None,
    split: str,
    prompt_column: str,
    chosen_column: str,
    rejected_column: str,
    completion_column: str,
    label_column: str,
    max_samples: int | None,
    validation_split: float | str,
    text_column: str = Columns.text,
    messages_column: str = Columns.messages,
) -> Data:
    """Builds any data set whose columns are those of `record_of`, by the names that `Columns` is made of."""
    single = completion_column, label_column, text_column, messages_column
    convert = partial(record_of, columns=Columns(prompt_column, chosen_column, rejected_column, *single))
    return _build("hf", path, subset, split, convert, max_samples, validation_split, published=False)


def build_jsonl(
    path: str,
    prompt_column: str,
    chosen_column: str,
    rejected_column: str,
    max_samples: int | None,
    validation_split: float,
) -> Data:
    """Builds data of one's own: what `build_hf` reads, of a file or a folder, the other columns by their usual names.

    Nothing is stripped from a text or added to it.
    """
    convert = partial(record_of, columns=Columns(prompt_column, chosen_column, rejected_column))
    return _build("jsonl", path, None, TRAIN, convert, max_samples, validation_split, published=False)


def build_hh(path: str, subset: str | None, split: str, max_samples: int | None, validation_split: float | str) -> Data:
    """Builds Anthropic/hh-rlhf (Bai et al. 2204.05862): dialogues that differ in the last turn of the assistant.

    Subsets are its folders, such as helpful-base.
    """
    return _build("hh", path, subset, split, hh_pair, max_samples, validation_split, subset_is_folder=True)


def build_shp(
    path: str,
    subset: str | None,
    split: str,
    min_score_ratio: float,
    max_samples: int | None,
    validation_split: float | str,
) -> Data:
    """Builds stanfordnlp/SHP (Ethayarajh et al. 2110.08420): two comments on one post, by their scores.

    Subsets are its folders, such as askculinary. `min_score_ratio` is the least ratio of the two scores.
    """
    convert = partial(shp_pair, min_score_ratio=min_score_ratio)
    return _build("shp", path, subset, split, convert, max_samples, validation_split, subset_is_folder=True)


def build_se(path: str, subset: str | None, split: str, max_samples: int | None, validation_split: float | str) -> Data:
    """Builds HuggingFaceH4/stack-exchange-preferences: all pairs of the answers to a question, by their scores.

    Subsets are its folders, such as data/academia.stackexchange.com.
    """
    return _build("se", path, subset, split, se_pairs, max_samples, validation_split, subset_is_folder=True)


def build_ultrafeedback(
    path: str, subset: str | None, split: str, max_samples: int | None, validation_split: float | str
) -> Data:
    """Builds HuggingFaceH4/ultrafeedback_binarized or trl-lib/ultrafeedback_binarized (Cui et al. 2310.01377)."""
    return _build("ultrafeedback", path, subset, split, ultrafeedback_pair, max_samples, validation_split)


def _build(
    option: str,
    path: str,
    subset: str | None,
    split: str,
    convert: Convert,
    max_samples: int | None,
    validation_split: float | str,
    subset_is_folder: bool = False,
    published: bool = True,
) -> Data:
    dropped: Counter[str] = Counter()

    def records(name: str) -> list[Record]:
        rows = require_layout(read_rows(path, subset, name, subset_is_folder), convert, option, path)
        return collect(rows, convert, max_samples, dropped, published)

    if isinstance(validation_split, str):
        train, validation = records(split), records(validation_split)
    else:
        train, validation = split_records(records(split), validation_split)
    return assemble(train, validation, dropped, path, more_rows(validation_split))


def hh_pair(row: Row) -> Found:
    """Yields the pair of two dialogues: what comes before the last assistant's turn must be the same in both."""
    require_texts(row, ("chosen", "rejected"))
    marker = row["chosen"].rfind(RESPONSE)
    if marker < 0:
        raise BadRow(f"'chosen' must hold {RESPONSE!r}, but does not")
    prompt = row["chosen"][: marker + len(RESPONSE)]
    chosen, rejected = row["chosen"][len(prompt) :], row["rejected"][len(prompt) :]
    shared = row["rejected"].startswith(prompt) and RESPONSE not in rejected
    yield _checked(Pair(prompt, chosen, rejected)) if shared else Dropped(OTHER_PROMPT)


def shp_pair(row: Row, min_score_ratio: float) -> Found:
    """Yields the pair of two comments; a positive score to one of 0 or below counts as an infinite ratio."""
    require_texts(row, ("history",))
    comments = [_text(row, f"human_ref_{side}") for side in "AB"]
    scores = [_number(row, f"score_{side}") for side in "AB"]
    if row.get("labels") not in (0, 1):
        raise BadRow(f"'labels' must be 1 (A is preferred) or 0, but is {row.get('labels')!r}")
    if scores[0] == scores[1]:
        yield Dropped(TIE)
    elif max(scores) < min_score_ratio * max(min(scores), 0) or max(scores) <= 0:
        yield Dropped(f"scores with a ratio below {min_score_ratio:g}")
    else:
        chosen, rejected = comments if row["labels"] == 1 else reversed(comments)
        yield _checked(Pair(question(row["history"]), response_text(chosen), response_text(rejected)))


def se_pairs(row: Row) -> Found:
    """Yields all pairs of answers with different scores; HTML becomes text."""
    require_texts(row, ("question",))
    answers = row.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise BadRow("'answers' must be a list of objects with text and pm_score")
    texts = [response_text(plain_text(_text(answer, "text"))) for answer in answers]
    scores = [_number(answer, "pm_score") for answer in answers]
    prompt = question(plain_text(row["question"]))
    if not plain_text(row["question"]):
        yield Dropped(BLANK)
        return
    for first, second in se_order(scores):
        yield _checked(Pair(prompt, texts[first], texts[second]))
    ties = sum(a == b for a, b in combinations(scores, 2))
    yield from [Dropped(TIE)] * ties


def se_order(scores: list[float]) -> list[tuple[int, int]]:
    """Returns the indices (better, worse) of all pairs of different scores."""
    pairs = combinations(range(len(scores)), 2)
    return [(i, j) if scores[i] > scores[j] else (j, i) for i, j in pairs if scores[i] != scores[j]]


def ultrafeedback_pair(row: Row) -> Found:
    """Yields the pair of two dialogues as messages, unless the chosen completion has not the higher score."""
    for column in ("chosen", "rejected"):
        if isinstance(row.get(column), list) and _is_blank(row[column]):
            yield Dropped(BLANK)
            return
    if _number(row, "score_chosen") <= _number(row, "score_rejected"):
        yield Dropped("chosen completion with no higher score")
        return
    (dialogue, chosen), (other, rejected) = (dialogue_of(row, "prompt", side) for side in ("chosen", "rejected"))
    if dialogue != other:
        yield Dropped(OTHER_PROMPT)
        return
    yield _checked(Pair(Chat(dialogue), response_text(chosen), response_text(rejected)))


def _is_blank(messages: list[object]) -> bool:
    last = messages[-1] if messages else None
    return isinstance(last, dict) and isinstance(last.get("content"), str) and not last["content"].strip()


def _checked(pair: Pair) -> Pair | Dropped:
    """Returns the pair, unless it teaches nothing: published data has such rows, and nobody can correct them."""
    if not (pair.chosen.strip() and pair.rejected.strip()):
        return Dropped(BLANK)
    return Dropped(EQUAL) if pair.chosen == pair.rejected else pair


def _text(row: Row, column: str) -> str:
    if not isinstance(row.get(column), str):
        raise BadRow(f"{column!r} must be a string, but is {row.get(column)!r:.60}")
    return str(row[column])


def _number(row: Row, column: str) -> float:
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"{column!r} must be a number, but is {value!r:.60}")
    return value
