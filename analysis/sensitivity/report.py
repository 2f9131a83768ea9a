"""The table of a comparison, and what it says about the optima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.answers.cost import ToTarget
from analysis.answers.settings import Setting
from analysis.parameters import format_value, short_names
from analysis.sensitivity.budget import Asked
from analysis.sensitivity.compare import Curve, mean, spread
from gpt_opt.records.metrics import metric_label, metric_text
from gpt_opt.table import Column, render

_OPTIMUM = {
    "interior": "interior",
    "lowest": "at the low edge",
    "highest": "at the high edge",
    "only": "one value tried",
    "none": "all diverged",
}


Row = tuple[Curve, ToTarget]
"""One optimizer: what was tried of it, and how long its best setting took to the target."""


def _tuned_names(rows: Sequence[Row], asked: Asked) -> dict[str, str]:
    """Returns short names of by, axis and all that was tuned, by column."""
    tuned = dict.fromkeys(column for curve, _ in rows for column in curve.tuned)
    return short_names([asked.by, asked.axis, *tuned])


def comparison_table(rows: Sequence[Row], target: float, asked: Asked) -> pd.DataFrame:
    """Returns the table as numbers, a row an optimizer, the best first: what is saved as CSV.

    Columns are what tells the optimizers apart, the best value of the axis and of what else was tuned, mean and
    standard deviation of the metric over seeds, runs and how many of them diverged, the target, how many runs reached
    it, mean and standard deviation of the steps and seconds until then, and where the optimum lies.
    """
    records = []
    for curve, time in rows:
        best = curve.best
        names = _tuned_names(rows, asked)
        record: dict[str, Any] = {names.pop(asked.by): curve.name, names.pop(asked.axis): float(curve.at)}
        record |= {name: best.values.get(column) for column, name in names.items()}
        record |= {asked.metric: mean(best.finals), f"{asked.metric} std": spread(best.finals)}
        record |= {"runs": best.planned, "diverged": best.diverged}
        record |= {"target": target, "reached": time.reached}
        for name in ("steps", "seconds"):
            values = [getattr(one, name) for one in time.reaches]
            record |= {name: mean(values), f"{name} std": spread(values)}
        records.append(record | {"optimum": curve.optimum})
    return pd.DataFrame(records)


def _plus_minus(values: Sequence[float], name: str) -> str:
    """Returns `1.9123 ± 0.0031`, without the second where there is one value."""
    if not values:
        return "-"
    text = metric_text(name, mean(values))
    return text if len(values) == 1 else f"{text} ± {metric_text(name, spread(values))}"


def _numbers(values: Sequence[float], best: Setting) -> str:
    """Returns `120 ± 4`, with `(2 of 3)` where some runs did not reach the target; `-` where nothing was logged."""
    if not values:
        return "not reached"
    if any(map(math.isnan, values)):
        return "-"
    digits = 0 if mean(values) >= 100 else 1
    text = f"{mean(values):.{digits}f}" + (f" ± {spread(values):.{digits}f}" if len(values) > 1 else "")
    return text if len(values) == best.planned else f"{text} ({len(values)} of {best.planned})"


def table_text(rows: Sequence[Row], target: float, asked: Asked, width: int | None) -> str:
    """Returns the table for a terminal of `width` columns; None where there is none."""
    names = _tuned_names(rows, asked)
    goal = metric_text(asked.metric, target)
    curves, best = [curve for curve, _ in rows], [curve.best for curve, _ in rows]
    columns = [
        Column(names.pop(asked.by), [curve.name for curve in curves], flexible=True),
        Column(names.pop(asked.axis), [format_value(curve.at) for curve in curves], right=True),
    ]
    for column, name in names.items():
        cells = [format_value(item.values.get(column)) for item in best]
        columns.append(Column(name, cells, right=True, flexible=True))
    seeds = [f"{item.planned}" + (f" ({item.diverged} diverged)" if item.diverged else "") for item in best]
    steps = [_numbers([one.steps for one in time.reaches], time.setting) for _, time in rows]
    seconds = [_numbers([one.seconds for one in time.reaches], time.setting) for _, time in rows]
    columns += [
        Column(metric_label(asked.metric), [_plus_minus(item.finals, asked.metric) for item in best], right=True),
        Column("seeds", seeds, right=True),
        Column(f"steps to {goal}", steps, right=True),
        Column(f"seconds to {goal}", seconds, right=True),
        Column("optimum", [_OPTIMUM[curve.optimum] for curve in curves]),
    ]
    return "\n".join(render(columns, width))


def remarks(curves: Sequence[Curve], asked: Asked) -> list[str]:
    """Returns a line for each optimizer whose best value of the axis is not between others that were tried."""
    name = short_names([asked.axis])[asked.axis]
    lines = []
    for curve in curves:
        best = format_value(curve.at)
        say = {
            "lowest": f"the best {name}, {best}, is the lowest that was tried",
            "highest": f"the best {name}, {best}, is the highest that was tried",
            "only": f"{best} is the only {name} that was tried",
            "none": f"every run diverged, the lowest {name} was {format_value(min(curve.profile))}",
        }
        if curve.optimum in say:
            lines.append(f"{curve.name}: {say[curve.optimum]}")
    return lines
