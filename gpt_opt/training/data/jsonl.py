"""Preference pairs from a file of the user's own, with every bad row named at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import cast

from gpt_opt.training.data.collect import assemble, collect, divide, more_rows
from gpt_opt.training.data.columns import Columns, plain_pair
from gpt_opt.training.data.records import PairData
from gpt_opt.training.data.rows import json_lines


def build_jsonl(
    path: str,
    prompt_column: str,
    chosen_column: str,
    rejected_column: str,
    max_samples: int | None,
    validation_split: float,
) -> PairData:
    """Reads one JSON object a line into pairs; nothing is stripped from a text or added to it.

    Pairs with the same prompt go to the same split, chosen by a hash of the prompt: adding rows moves no other row.

    Args:
        path: The file, UTF-8.
        prompt_column: Key of the prompt.
        chosen_column: Key of the preferred answer.
        rejected_column: Key of the other answer.
        max_samples: Use only the first so many rows; None uses all.
        validation_split: Share of the prompts for validation, in (0, 1).

    Raises:
        DataError: If any row is bad (all are named, with their lines), or a split stays empty.
    """
    columns, dropped = Columns(prompt_column, chosen_column, rejected_column), Counter[str]()
    pairs = collect(json_lines(Path(path)), lambda row: [plain_pair(row, columns)], max_samples, dropped)
    train, validation = divide(pairs, validation_split)
    return cast("PairData", assemble(train, validation, dropped, path, more_rows(validation_split)))
