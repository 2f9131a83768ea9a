"""The table of a sweep: `summary_table` as a DataFrame, `render_table` as text for a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from analysis.answers.metric import metric_columns
from analysis.parameters import format_value, group_key, run_order, short_names, shown_parameters
from gpt_opt.errors import GptOptError
from gpt_opt.records.io import write_bytes
from gpt_opt.records.metrics import MOST_SHOWN, metric_label, metric_text, own_metrics
from gpt_opt.table import Column, render

_NAMES = ("loss", "eval/loss", "eval/rewards/accuracies", "eval/rewards/margins", "eval/kl", "time_s")

METRICS: Mapping[str, str] = {metric_label(name): name for name in _NAMES}
"""Table column to `load_runs` column."""

IDENTITY = ("run_id", "path")
"""Columns of the table that the text leaves out: they are long."""

_FIXED = ("state", "steps", *METRICS, *IDENTITY)


def _steps(runs: pd.DataFrame) -> list[str]:
    pairs = zip(runs["step"], runs["total_steps"], strict=True)
    return ["/".join("?" if pd.isna(count) else str(count) for count in pair) for pair in pairs]


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the table of a sweep.

    Args:
        runs: What `load_runs` returned, or some of its rows.

    Returns:
        One row a run, sorted by what varies: the config values that vary by their short names (`beta`), state, steps
        (`step/total`), the columns of `METRICS` (accuracy as a fraction), metrics that are in no registry, run_id and
        path. `attrs["parameters"]` maps the names of the first columns to their config keys, `attrs["own"]` has the
        names of those metrics.
    """
    names = short_names(shown_parameters(runs), reserved=_FIXED)
    columns: dict[str, Any] = {short: runs[column] for column, short in names.items()}
    columns |= {"state": runs["state"], "steps": pd.Series(_steps(runs), index=runs.index, dtype="str")}
    missing = pd.Series(float("nan"), index=runs.index, dtype="float64")
    columns |= {title: runs[name] if name in runs.columns else missing for title, name in METRICS.items()}
    own = own_metrics(metric_columns(runs))[:MOST_SHOWN]
    columns |= {name: runs[name] for name in own}
    columns |= {name: runs[name] for name in IDENTITY}
    table = pd.DataFrame(columns).iloc[run_order(runs, list(names))].reset_index(drop=True)
    table.attrs["own"] = own
    table.attrs["parameters"] = {short: column for column, short in names.items()}
    return table


def _column(table: pd.DataFrame, name: str) -> Column:
    """Returns a column of text: numbers to the right and never folded, texts to the left."""
    form = partial(metric_text, METRICS.get(name, name)) if name in (*METRICS, *table.attrs["own"]) else format_value
    numeric = name in METRICS or name == "steps" or pd.api.types.is_numeric_dtype(table[name])
    cells = ["-" if group_key(value) is None else form(value) for value in table[name]]
    return Column(name, cells, right=numeric, flexible=name not in _FIXED)


def render_table(table: pd.DataFrame, width: int | None = None) -> str:
    """Returns a `summary_table` as text.

    Metrics that no run has are left out. When the text would be wider than `width`, names and texts of parameters are
    folded, and if that is not enough every row takes several lines.

    Args:
        table: What `summary_table` returned.
        width: Columns of the terminal; None where there is none.
    """
    empty = {name for name in METRICS if table[name].isna().all()}
    names = [name for name in table.columns if name not in (*IDENTITY, *empty)]
    return "\n".join(render([_column(table, name) for name in names], width))


def save_table(table: pd.DataFrame, target: Path, fix: str) -> None:
    """Writes a table of texts and numbers as CSV.

    Raises:
        GptOptError: If it cannot be written; the message has `fix`, which says what to do then.
    """
    try:
        table.to_csv(target, index=False)
    except OSError as error:
        raise GptOptError(f"the table cannot be saved there, {fix}: {error}") from error


def save_frame(frame: pd.DataFrame, target: Path) -> None:
    """Writes a frame of runs or of metrics in one step, as CSV or Parquet by the ending of the file.

    CSV has lists as JSON; so has Parquet where the values of a column are not all lists of one kind.

    Args:
        frame: What `load_runs` or `load_metrics` returned.
        target: The file, `.csv` or `.parquet`, in capitals or not.

    Raises:
        GptOptError: If it cannot be written.
    """
    is_csv = target.suffix.lower() == ".csv"
    mixed = [name for name in frame.columns if frame[name].dtype == object and (is_csv or not _is_uniform(frame[name]))]
    plain = frame.assign(**{name: frame[name].map(_cell_text, na_action="ignore") for name in mixed})
    try:
        write_bytes(target, plain.to_csv(index=False).encode() if is_csv else plain.to_parquet(None, index=False))
    except OSError as error:
        raise GptOptError(f"the table cannot be saved there, give another -o FILE: {error}") from error


def _is_uniform(values: pd.Series) -> bool:
    """Returns whether Parquet has a type that holds all values of a column, lists among them, as they are."""
    try:
        pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError):
        return False
    return True


def json_value(value: Any) -> Any:
    """Returns a cell, or lists and dictionaries of cells, as JSON: missing, NaN and infinite values are null."""
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if pd.isna(value) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def _cell_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
