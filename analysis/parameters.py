"""What varies between the runs of a sweep, and what to call it."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gpt_opt.errors import GptOptError
from gpt_opt.records.run_id import ABSENT_MEANS, TRAINING
from gpt_opt.records.step_log import NOT_METRICS

MAIN_PARAMETER = "loss.beta"
"""Shown when nothing varies."""

_NAMES = ("name", "_target_")
"""Last parts of keys that say what was chosen for a group."""

LONG_NUMBER = 10
"""Characters beyond which a number was drawn, not chosen, and is rounded in a legend."""


def beside_key(metric: str) -> str:
    """Returns the column of a metric in a frame of runs where a config key, or a fixed column, has its name."""
    return f"metrics/{metric}"


def named_as_in(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Returns a `load_metrics` frame with the names that its metrics have in a `load_runs` frame."""
    names = [name for name in metrics.columns if name not in NOT_METRICS and beside_key(name) in runs.columns]
    return metrics.rename(columns={name: beside_key(name) for name in names})


def is_of_training_app(keys: Iterable[str]) -> bool:
    """Returns whether config keys are of gpt-opt's own training: some are among them that runs of other apps lack."""
    return any(key.startswith("training.training_params.") for key in keys)


def parameter_columns(runs: pd.DataFrame) -> list[str]:
    """Returns the columns of a `load_runs` frame that hold config values which can change a result.

    Keys without a dot are those that the frame itself says: a name alone, `loss`, may be a metric as well.
    """
    dotted = (name for name in runs.columns if "." in name and "/" not in name)
    in_frame = (*runs.attrs.get("varying", ()), *runs.attrs.get("constant", ()))
    identifies = (lambda key: True) if runs.attrs.get("all_identify") else TRAINING.has
    logged = runs.attrs.get("logged", ())
    known = {"seed", *filter(identifies, (*(name for name in dotted if name not in logged), *in_frame))}
    return [name for name in runs.columns if name in known]


def with_absent_values(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns runs of which those of earlier versions have the values that the absence of a later key means."""
    later = {key: value for key, value in ABSENT_MEANS.items() if value not in (None, {}) and key in runs.columns}
    has_config = runs[parameter_columns(runs)].notna().any(axis=1)
    return runs.assign(**{key: _filled(runs[key], value, has_config) for key, value in later.items()})


def _filled(values: pd.Series, value: Any, where: pd.Series) -> pd.Series:
    if isinstance(values.dtype, pd.CategoricalDtype) and value not in values.cat.categories:
        values = values.cat.add_categories([value])
    return values.mask(values.isna() & where, value)


def group_key(value: Any) -> Hashable:
    """Returns a config value as something to group by; lists by their text, missing ones alike."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return None if pd.isna(value) else value


def is_number(value: Any) -> bool:
    """Returns whether a config value is a number, no switch and not NaN."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(value == value)


def hashable(values: pd.Series) -> pd.Series:
    """Returns the `group_key` of each value of a column."""
    return values.map(group_key) if values.dtype == object else values


def follows(runs: pd.DataFrame, column: str, name: str) -> bool:
    """Returns whether `column` has one value for each value of `name`."""
    groups = hashable(runs[column]).groupby(hashable(runs[name]), dropna=False)
    return bool(groups.nunique(dropna=False).max() == 1)


def varying_parameters(runs: pd.DataFrame) -> list[str]:
    """Returns the config columns that tell the runs apart, in the order of the frame, the seed last.

    A sweep over a config group changes many keys at once. Those that follow from a varying `name` key of their
    top-level group, or without one of its `_target_`, are left out (`optimizer=adamw,rmsprop`), and of keys that only
    some runs have, with one value, the first of the group stands for all (`lora=none,lora`). Runs whose config could
    not be read are not looked at.
    """
    known = runs[parameter_columns(runs)].dropna(how="all").apply(hashable)
    varying = [column for column in known.columns if known[column].nunique(dropna=False) > 1]
    names: dict[str, str] = {}
    for ending in _NAMES:
        for column in varying:
            if column.endswith(f".{ending}"):
                names.setdefault(column.split(".")[0], column)
    kept: dict[object, str] = {}
    for column in varying:
        group = column.split(".")[0]
        if (name := names.get(group)) not in (None, column) and follows(known, column, name):
            continue
        present = known[column].notna()
        kept.setdefault((group, tuple(present)) if known[column].nunique() == 1 else column, column)
    return sorted(kept.values(), key=lambda column: column == "seed")


def shown_parameters(runs: pd.DataFrame) -> list[str]:
    """Returns the varying parameters, the seed last, or the main one when nothing varies."""
    return varying_parameters(runs) or [name for name in (MAIN_PARAMETER,) if name in runs.columns]


def varying_text(runs: pd.DataFrame) -> str:
    """Returns in words what varies between runs."""
    varying = varying_parameters(runs)
    return f"what varies between them is {', '.join(varying)}" if varying else "nothing varies between them"


def find_column(runs: pd.DataFrame, name: str) -> str:
    """Returns the config column that a user means by its dotted key or the end of it.

    Raises:
        GptOptError: If there is none, or more than one.
    """
    columns = parameter_columns(runs)
    found = [name] if name in columns else [column for column in columns if column.endswith(f".{name}")]
    found = found or [column for column, short in short_names(shown_parameters(runs)).items() if short == name]
    if len(found) != 1:
        what = f"{', '.join(found)} have that name" if found else f"the runs have no {name}"
        raise GptOptError(f"a config key of the runs is needed, but {what}; {varying_text(runs)}")
    return found[0]


def _short_forms(column: str) -> tuple[str, str, str]:
    """Returns names for a column from short to long; `optimizer.optimizer_params.name` is best called `optimizer`."""
    parts = column.split(".")
    short = parts[-2].removesuffix("_params") if parts[-1] in _NAMES and len(parts) > 1 else parts[-1]
    return short, ".".join(parts[-2:]), column


def short_names(columns: Sequence[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """Returns the shortest clear name of each column: `loss.beta` is `beta` unless another one would be too.

    Args:
        columns: Dotted config keys.
        reserved: Names that mean something else where these are shown.
    """
    taken = set(reserved)
    forms = {column: _short_forms(column) for column in columns}
    chosen = dict.fromkeys(columns, "")
    for column in columns:
        others = {form for other in columns if other != column for form in forms[other]}
        chosen[column] = next((form for form in forms[column] if form not in others | taken), column)
    return chosen


def format_value(value: Any) -> str:
    """Returns a config value as a person would type it; `-` when there is none."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    if pd.isna(value):
        return "-"
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(float(value))
    return str(value)


def shortened(values: Iterable[str], limit: int) -> dict[str, str]:
    """Returns every value in at most `limit` characters, `…` for what is left out; different values stay different.

    The folders that long values begin with alike give way first, then the files that they end with alike, then their
    middle; a number tells apart what is left.
    """
    distinct = list(dict.fromkeys(values))
    long = [value for value in distinct if len(value) > limit]
    start = os.path.commonprefix(long).rfind("/") + 1 if len(long) > 1 else 0  # noqa: RUF071 (of texts, cut at a folder)
    same = os.path.commonprefix([value[::-1] for value in long])[::-1]  # noqa: RUF071
    end = len(same) - same.find("/") if len(long) > 1 and "/" in same else 0
    found = {value: value for value in distinct if len(value) <= limit}
    taken = set(found)
    for value in long:
        rest, number = "…" * (start > 1) + value[start if start > 1 else 0 :], 1
        if len(rest) > limit and end and start + end < len(value):
            rest = rest[:-end] + "…"
        text = _clipped(rest, limit)
        while text in taken:
            number += 1
            text = f"{_clipped(rest, limit - len(str(number)) - 1)}~{number}"
        found[value] = text
        taken.add(text)
    return found


def short_values(values: Iterable[Any], limit: int) -> list[str]:
    """Returns config values as `format_value`, in about `limit` characters; different ones stay different.

    Long numbers are rounded to as many digits as tell them apart, at least three.
    """
    values = list(values)
    texts = [format_value(value) for value in values]
    numbers = {text: value for text, value in zip(texts, values, strict=True) if isinstance(value, float)}
    if any(len(text) > min(limit, LONG_NUMBER) for text in numbers):
        rounded = ({text: f"{value:.{digits}g}" for text, value in numbers.items()} for digits in range(3, 18))
        found = next(item for item in rounded if len(set(item.values())) == len(item))
        texts = [text if text == "-" else found.get(text, text) for text in texts]
    short = shortened((text for text in texts if text not in numbers), limit)
    return [short.get(text, text) for text in texts]


def _clipped(text: str, width: int) -> str:
    """Shortens in the middle: paths and long names differ at their ends."""
    if len(text) <= width:
        return text
    head = width // 3
    return f"{text[:head]}…{text[len(text) - (width - head - 1) :]}"


def sort_key(value: Any) -> tuple[int, float, str]:
    """Orders values of any kinds: numbers by size, then texts and lists, then what is missing."""
    if isinstance(value, list | dict):
        return 1, 0.0, json.dumps(value)
    if pd.isna(value):
        return 2, 0.0, ""
    if isinstance(value, str):
        return 1, 0.0, value
    return 0, float(value), ""


def run_order(runs: pd.DataFrame, columns: Sequence[str]) -> list[int]:
    """Returns the row numbers of `runs` ordered by the values of `columns`, then as they stand."""
    rows = [tuple(map(sort_key, row)) for row in runs[list(columns)].itertuples(index=False)]
    return sorted(range(len(runs)), key=rows.__getitem__)


def run_labels(runs: pd.DataFrame) -> list[str]:
    """Returns what tells each run from the others, for example `beta=0.05, seed=1`; its directory's name otherwise."""
    names = short_names(shown_parameters(runs))
    if not names:
        return [path.rstrip("/").rpartition("/")[2] for path in runs["path"]]
    rows = runs[list(names)].itertuples(index=False)
    pairs = (zip(names.values(), map(format_value, row), strict=True) for row in rows)
    return [", ".join(f"{name}={value}" for name, value in pair) for pair in pairs]
