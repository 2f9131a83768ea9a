"""The frame of runs: its columns, their types and their order, and what it says of itself in `attrs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from analysis.files import number, whole
from analysis.parameters import hashable, varying_parameters

TIME: Final = "datetime64[us, UTC]"

RUN_COLUMNS: Mapping[str, str] = {
    "run_id": "str",
    "state": "str",
    "step": "Int64",
    "total_steps": "Int64",
    "attempt": "Int64",
    "started": TIME,
    "updated": TIME,
    "time_s": "float64",
    "tokens": "Int64",
    "peak_memory_mb": "float64",
    "error": "str",
    "path": "str",
    "reason": "str",
}
"""The columns that every frame of runs has, with their types; `reason` says why a run is broken or has no directory."""

SWEEP_COLUMNS: Mapping[str, str] = {"index": "str", "stage": "str"}
"""The further columns of the runs of a sweep: what people call a run (`3`, `dpo/3`), and its stage."""

_FIRST = ("run_id", "state", *SWEEP_COLUMNS)


@dataclass(frozen=True)
class RunRow:
    """One run before it becomes a row.

    Attributes:
        fixed: Values of `RUN_COLUMNS` and `SWEEP_COLUMNS`; times as ISO 8601.
        metrics: Final or latest values by metric name.
        config: Values by dotted key.
    """

    fixed: dict[str, Any]
    metrics: dict[str, float | None] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def _fixed_column(values: list[Any], dtype: str) -> pd.Series:
    if dtype != TIME:
        return pd.Series(values, dtype=dtype)
    return pd.to_datetime(pd.Series(values, dtype="str"), utc=True, format="ISO8601", errors="coerce").astype(TIME)


def _config_column(values: list[Any]) -> pd.Series:
    """Returns config values with the narrowest type that holds them all; object when kinds are mixed."""
    kinds = {type(value) for value in values} - {type(None)}
    complete = None not in values
    if kinds == {bool}:
        return pd.Series(values, dtype="bool" if complete else "boolean")
    if kinds == {int} and all(whole(value) is not None for value in values if value is not None):
        return pd.Series(values, dtype="int64" if complete else "Int64")
    if float in kinds and kinds <= {int, float}:
        return pd.Series([number(value) for value in values], dtype="float64")
    return pd.Series(values, dtype="category" if kinds == {str} else "object")


def _names(records: Iterable[Iterable[str]]) -> list[str]:
    """Returns every name once, in the order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))


def _varies(values: pd.Series) -> bool:
    return bool(hashable(values).nunique(dropna=False) > 1)


def runs_frame(rows: Sequence[RunRow], problems: list[str], sweep: str | None = None) -> pd.DataFrame:
    """Returns the frame of runs.

    Args:
        rows: The runs, in their order.
        problems: What could not be read, a line each.
        sweep: `<name>/<n>` where they are the runs of a sweep.

    Returns:
        One row a run. First `run_id` and `state`, of a sweep `index` and `stage`; then the config keys that vary, by
        dotted key; the metrics by their names; the rest of `RUN_COLUMNS`; the config keys that do not vary. A name
        that appears twice keeps the first meaning of: fixed column, metric, config key. `attrs` has `problems`,
        `varying` (the keys that tell the runs apart, see `varying_parameters`), `constant` (key to value) and `sweep`.
    """
    fixed_types = RUN_COLUMNS if sweep is None else {**RUN_COLUMNS, **SWEEP_COLUMNS}
    fixed = {name: _fixed_column([row.fixed.get(name) for row in rows], dtype) for name, dtype in fixed_types.items()}
    metrics = {
        name: pd.Series([row.metrics.get(name) for row in rows], dtype="float64")
        for name in _names(row.metrics for row in rows)
        if name not in fixed
    }
    known = [row.config for row in rows if row.config]
    config, constant = {}, {}
    for name in _names(known):
        if name in fixed or name in metrics:
            continue
        config[name] = _config_column([row.config.get(name) for row in rows])
        if not _varies(pd.Series([item.get(name) for item in known], dtype=config[name].dtype)):
            constant[name] = known[0].get(name)
    varying = varying_parameters(pd.DataFrame(config))
    others = [name for name in config if name not in constant and name not in varying]
    columns = {**fixed, **metrics, **config}
    first = [name for name in _FIRST if name in fixed]
    rest = [name for name in RUN_COLUMNS if name not in first]
    frame = pd.DataFrame({name: columns[name] for name in (*first, *varying, *others, *metrics, *rest, *constant)})
    frame.attrs.update(problems=problems, varying=varying, constant=constant, sweep=sweep)
    return frame
