"""The table of an answer: a DataFrame, and text for a terminal, CSV, LaTeX, Markdown."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.answers.answer import Answer
from analysis.answers.compare import Pair


def answer_table(answer: Answer) -> pd.DataFrame:
    """Returns the table of `Answer.table`."""
    pairs = {} if answer.comparison is None else {id(pair.other): pair for pair in answer.comparison.pairs}
    front = {id(item) for item in answer.front}
    reaches = {id(item.setting): item for item in answer.reaches}
    records = []
    for item in answer.settings:
        record: dict[str, Any] = dict(item.values)
        record |= {"mean": item.mean, "low": item.low, "high": item.high, "n": item.n, "failed": item.failed}
        record |= {"diverged": item.diverged, "unfinished": item.unfinished, "missing": item.missing}
        record |= _against_best(pairs.get(id(item)))
        record |= {**item.costs, "on_front": id(item) in front}
        if (reach := reaches.get(id(item))) is not None:
            record |= {"reached": reach.reached, "steps_to_target": reach.steps, "seconds_to_target": reach.seconds}
        records.append(record)
    table = pd.DataFrame(records)
    return table.astype({"distinguishable": "boolean"}) if records else table


def _against_best(pair: Pair | None) -> dict[str, Any]:
    if pair is None:
        return {"difference": math.nan, "p": math.nan, "distinguishable": None}
    return {"difference": pair.difference, "p": pair.p, "distinguishable": pair.distinguishable if pair.test else None}
