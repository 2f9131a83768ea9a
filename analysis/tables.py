"""The table of a sweep: `summary_table` as a DataFrame, `render_table` as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.parameters import format_value, run_order, short_names, shown_parameters

METRICS: Mapping[str, str] = {
    "train loss": "loss",
    "eval loss": "eval/loss",
    "eval accuracy": "eval/rewards/accuracies",
    "eval margin": "eval/rewards/margins",
    "KL": "eval/kl",
    "seconds": "time_s",
}
"""Table column to `load_runs` column."""

IDENTITY = ("run_id", "path")
"""Columns of the table that the text leaves out: they are long."""

_FIXED = ("state", "steps", *METRICS, *IDENTITY)
_GAP = "  "
_WIDEST_PARAMETER = 40
_NARROWEST_PARAMETER = 8


def _steps(runs: pd.DataFrame) -> list[str]:
    pairs = zip(runs["step"], runs["total_steps"], strict=True)
    return ["/".join("?" if pd.isna(count) else str(count) for count in pair) for pair in pairs]


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the table of a sweep.

    Args:
        runs: What `load_runs` returned, or some of its rows.

    Returns:
        One row a run, sorted by what varies: the config values that vary by their short names (`beta`), state, steps
        (`step/total`), the columns of `METRICS` (accuracy as a fraction), run_id and path. `attrs["parameters"]` maps
        the names of the first columns to their config keys.
    """
    names = short_names(shown_parameters(runs), reserved=_FIXED)
    columns: dict[str, Any] = {short: runs[column] for column, short in names.items()}
    columns |= {"state": runs["state"], "steps": pd.Series(_steps(runs), index=runs.index, dtype="str")}
    missing = pd.Series(float("nan"), index=runs.index, dtype="float64")
    columns |= {title: runs[name] if name in runs.columns else missing for title, name in METRICS.items()}
    columns |= {name: runs[name] for name in IDENTITY}
    table = pd.DataFrame(columns).iloc[run_order(runs, list(names))].reset_index(drop=True)
    table.attrs["parameters"] = {short: column for column, short in names.items()}
    return table


def _decimals(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10_000 else f"{value:.3e}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _seconds(value: float) -> str:
    return f"{value:.1f}"


_FORMATS: Mapping[str, Callable[[float], str]] = {
    **dict.fromkeys(METRICS, _decimals),
    "eval accuracy": _percent,
    "seconds": _seconds,
}


def _clip(text: str, width: int) -> str:
    """Shortens in the middle: paths and long names differ at their ends."""
    if len(text) <= width:
        return text
    head = width // 3
    return f"{text[:head]}…{text[len(text) - (width - head - 1) :]}"


def _cells(table: pd.DataFrame, column: str) -> list[str]:
    form: Callable[[Any], str] = _FORMATS.get(column, format_value)
    return [column, *("-" if pd.isna(value) else form(value) for value in table[column])]


def _aligned(table: pd.DataFrame, column: str, cells: list[str], widest: int) -> list[str]:
    """Returns the cells, header first, padded to one width: numbers to the right and never cut, texts to the left."""
    numeric = column in METRICS or column == "steps" or pd.api.types.is_numeric_dtype(table[column])
    if column not in _FIXED:
        cells = [_clip(cells[0], widest), *(cells[1:] if numeric else (_clip(cell, widest) for cell in cells[1:]))]
    width = max(map(len, cells))
    return [cell.rjust(width) if numeric else cell.ljust(width) for cell in cells]


Columns = dict[str, list[str]]


def _width(columns: Columns) -> int:
    return sum(len(cells[0]) for cells in columns.values()) + len(_GAP) * (len(columns) - 1)


def _fitting(table: pd.DataFrame, names: Sequence[str], width: int) -> Columns:
    """Returns padded columns with as much of names and texts of parameters as `width` allows, at least a little."""
    cells = {name: _cells(table, name) for name in names}
    for widest in range(_WIDEST_PARAMETER, _NARROWEST_PARAMETER - 1, -4):
        columns = {name: _aligned(table, name, cells[name], widest) for name in names}
        if _width(columns) <= width:
            break
    return columns


def render_table(table: pd.DataFrame, width: int = 120) -> str:
    """Returns a `summary_table` as text.

    Metrics that no run has are left out. When the text would be wider than `width`, long names and texts of parameters
    are shortened, and if that is not enough the widest parameters are left out, which a line below the table says.

    Args:
        table: What `summary_table` returned.
        width: Columns of the terminal.
    """
    empty = {name for name in METRICS if table[name].isna().all()}
    columns = _fitting(table, [name for name in table.columns if name not in (*IDENTITY, *empty)], width)
    left_out = []
    while _width(columns) > width and (parameters := [name for name in columns if name not in _FIXED]):
        left_out.append(max(reversed(parameters), key=lambda name: len(columns[name][0])))
        columns = _fitting(table, [name for name in columns if name not in left_out], width)
    lines = [_GAP.join(row).rstrip() for row in zip(*columns.values(), strict=True)]
    if left_out:
        lines.append(f"(left out to fit {width} columns: {', '.join(left_out)})")
    return "\n".join(lines)
