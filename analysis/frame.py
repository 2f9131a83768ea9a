"""The frame of runs: its columns, their types and their order, and what it says of itself in `attrs`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from analysis.entries import Entries
from analysis.files import whole
from analysis.parameters import beside_key, is_of_training_app, varying_parameters
from analysis.run_table import (
    KEYS,
    PLANNED,
    RUN_COLUMNS,
    SWEEP_COLUMNS,
    config_keys,
    config_values,
    metric_column,
    metric_names,
    plain_text,
)
from gpt_opt.records.io import number
from gpt_opt.records.metrics import in_order, metric_info
from gpt_opt.records.run_id import TRAINING

Codes: TypeAlias = npt.NDArray[np.int32]
Values: TypeAlias = Any  # what a DataFrame takes as a column

_FIRST = ("run_id", "state", *SWEEP_COLUMNS)


def _masked(codes: Codes, values: Sequence[Any], dtype: str) -> Values:
    """Returns values of a type that has no NaN; the nullable type where a run has none."""
    taken = np.array([*values, values[0]], dtype=dtype)[codes]
    missing = codes < 0
    if not missing.any():
        return taken
    array = pd.arrays.BooleanArray if dtype == "bool" else pd.arrays.IntegerArray
    return array(taken, missing)


def _category(codes: Codes, texts: Sequence[str]) -> Values:
    order = sorted(range(len(texts)), key=texts.__getitem__)
    rank = np.empty(len(texts) + 1, dtype=np.int32)
    rank[order], rank[-1] = np.arange(len(texts)), -1
    return pd.Categorical.from_codes(rank[codes], pd.Index([texts[item] for item in order], dtype="str"))


@dataclass(frozen=True)
class _ConfigKey:
    """One key of the config.

    Attributes:
        column: Its values, with the narrowest type that holds them all; object where kinds are mixed.
        varies: Whether runs whose value is known differ in it.
        value: The value of one that has it; None where none has.
    """

    column: Values
    varies: bool
    value: Any


def _narrowest(codes: Codes, values: Sequence[Any]) -> Values:
    kinds = set(map(type, values))
    if kinds == {bool}:
        return _masked(codes, values, "bool")
    if kinds == {int} and all(whole(value) is not None for value in values):
        return _masked(codes, values, "int64")
    if float in kinds and kinds <= {int, float}:
        return np.array([*map(number, values), np.nan], dtype="float64")[codes]
    if kinds == {str} and all(map(_is_text, values)):
        return _category(codes, values)
    cells = np.full(len(values) + 1, None, dtype=object)
    for place, value in enumerate(values):  # one by one, as numpy makes a matrix of lists
        cells[place] = value
    return cells[codes]


def _is_text(value: str) -> bool:
    """Returns whether a string has no lone surrogate, which JSON can write and pandas cannot hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _config_key(table: pa.Table, key: str, known: npt.NDArray[np.bool_]) -> _ConfigKey:
    codes, values = config_values(table, key)
    used = np.flatnonzero(np.bincount(codes + 1, minlength=len(values) + 1)[1:])  # faster than np.unique
    place = np.full(len(values) + 1, -1, dtype=np.int32)
    place[used] = np.arange(len(used))
    codes, values = place[codes], [values[item] for item in used]
    column = _narrowest(codes, values)
    is_float = isinstance(column, np.ndarray) and column.dtype == np.float64
    different = len(set(map(number, values))) if is_float else len(values)
    has_none = bool((known & (codes < 0)).any())
    return _ConfigKey(column, different + has_none > 1, values[0] if values else None)


def _config(table: pa.Table, taken: Collection[str], identifies: Callable[[str], bool]) -> dict[str, _ConfigKey]:
    """Returns the keys of the config whose names mean nothing else, in config order."""
    known = table[KEYS].is_valid().to_numpy()
    whole_known = known & ~table[PLANNED].to_numpy()
    keys = [key for key in config_keys(table) if key not in taken]
    return {key: _config_key(table, key, known if identifies(key) else whole_known) for key in keys}


def _metrics(table: pa.Table, taken: Collection[str]) -> dict[str, pa.ChunkedArray]:
    """Returns the metrics by the names of their columns; one whose name is taken has another."""
    names = {beside_key(name) if name in taken else name: name for name in in_order(metric_names(table))}
    return {column: table[metric_column(name)] for column, name in names.items() if column not in taken}


def _with_diverged(runs: Entries, metrics: Mapping[str, Any]) -> list[str]:
    """Returns the problems of all runs, a line each, with those whose metrics are no finite numbers."""
    found: dict[int, list[str]] = {}
    for name, column in metrics.items():
        values = column.to_numpy()
        if not np.isfinite(values).all():
            for row in np.flatnonzero(column.is_valid().to_numpy() & ~np.isfinite(values)).tolist():
                found.setdefault(row, []).append(f"{name}={values[row]}")
    lines: list[str] = []
    for row, own in enumerate(runs.problems):
        lines += own
        if names := found.get(row):
            lines.append(f"{runs.paths[row]}: the run diverged: {', '.join(names)}")
    return lines


def runs_frame(runs: Entries, sweep: str | None = None) -> pd.DataFrame:
    """Returns the frame of runs.

    Args:
        runs: The runs in their order, with the columns of `analysis.run_table`.
        sweep: `<name>/<n>` where they are the runs of a sweep.

    Returns:
        One row a run. First `run_id` and `state`, of a sweep `index` and `stage`; then the config keys that vary, by
        dotted key; the metrics by their names, float64; the rest of `RUN_COLUMNS`; the config keys that do not vary.
        Config columns have the narrowest type that holds all values: bool, int64, float64, their nullable kin, category
        for strings, object for lists and for several kinds. A name that appears twice keeps the first meaning of: fixed
        column, metric of the registry (not of other apps), config key; another metric of that name is `metrics/<name>`.

        `attrs` has `problems` (all of them, and the runs that diverged), `varying` (the keys that tell the runs apart,
        see `varying_parameters`), `constant` (key to value), `sweep`, `logged` (the metrics) and `all_identify`
        (whether every config key is part of what identifies a run: of an app that is not gpt-opt's training).
    """
    table = runs.data
    types = RUN_COLUMNS if sweep is None else {**RUN_COLUMNS, **SWEEP_COLUMNS}
    fixed = table.select(list(types)).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get).astype(types)
    fixed["path"] = pd.Series(map(plain_text, runs.paths), dtype="str")  # those kept in a cache had another name
    keys = config_keys(table)
    is_other_app = table[PLANNED].to_numpy().any() and not is_of_training_app(keys)
    identifies = (lambda key: True) if is_other_app else TRAINING.has
    # Of gpt-opt's training, and of runs that gpt-opt did not start, a metric of the registry comes before a key.
    metrics = _metrics(table, {*types, *(key for key in keys if is_other_app or metric_info(key) is None)})
    config = _config(table, [*types, *metrics], identifies)
    varying = [key for key, item in config.items() if item.varies]
    constant = {key: item.value for key, item in config.items() if not item.varies}
    # A key that does not vary, and that all have, keeps the rows in which no varying key has a value.
    anchor = [key for key, value in constant.items() if value is not None and identifies(key)][:1]
    differing = pd.DataFrame({key: config[key].column for key in (*anchor, *varying)})
    differing.attrs.update(varying=varying, all_identify=bool(is_other_app))
    telling = varying_parameters(differing)
    others = [key for key in varying if key not in telling]
    first = [name for name in _FIRST if name in types]
    columns: dict[str, Any] = {name: fixed[name] for name in first}
    columns |= {key: config[key].column for key in (*telling, *others)}
    columns |= {name: column.to_numpy() for name, column in metrics.items()}
    columns |= {name: fixed[name] for name in RUN_COLUMNS if name not in first}
    columns |= {key: config[key].column for key in constant}
    frame = pd.DataFrame(columns)
    lines = _with_diverged(runs, metrics)
    frame.attrs.update(problems=lines, varying=telling, constant=constant, sweep=sweep)
    frame.attrs.update(logged=list(metrics), all_identify=bool(is_other_app))
    return frame
