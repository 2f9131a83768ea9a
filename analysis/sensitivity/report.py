"""The table of a comparison, and what it says about the optima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.answers.cost import Reach
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


@dataclass(frozen=True)
class Row:
    """One optimizer.

    Attributes:
        curve: What was tried of it.
        reaches: The time to the target of each run of its best point that did not diverge.
    """

    curve: Curve
    reaches: tuple[Reach, ...]

    @property
    def steps(self) -> list[float]:
        """Steps to the target of the runs that reached it."""
        return [item.steps for item in self.reaches if item.reached]

    @property
    def seconds(self) -> list[float]:
        """Seconds to the target of the runs that reached it."""
        return [item.seconds for item in self.reaches if item.reached]


def _tuned_names(rows: Sequence[Row], asked: Asked) -> dict[str, str]:
    """Returns short names of by, axis and all that was tuned, by column."""
    tuned = dict.fromkeys(column for row in rows for column in row.curve.tuned)
    return short_names([asked.by, asked.axis, *tuned])


def comparison_table(rows: Sequence[Row], target: float, asked: Asked) -> pd.DataFrame:
    """Returns the table as numbers, a row an optimizer, the best first: what is saved as CSV.

    Columns are what tells the optimizers apart, the best value of the axis and of what else was tuned, mean and
    standard deviation of the metric over seeds, runs and how many of them diverged, the target, how many runs reached
    it, mean and standard deviation of the steps and seconds until then, and where the optimum lies.
    """
    records = []
    for row in rows:
        best = row.curve.best
        names = _tuned_names(rows, asked)
        record: dict[str, Any] = {names.pop(asked.by): row.curve.name, names.pop(asked.axis): best.axis}
        record |= {name: best.settings.get(column) for column, name in names.items()}
        record |= {asked.metric: mean(best.values), f"{asked.metric} std": spread(best.values)}
        record |= {"runs": len(best.finals), "diverged": len(best.finals) - len(best.values)}
        record |= {"target": target, "reached": len(row.steps)}
        record |= {"steps": mean(row.steps), "steps std": spread(row.steps)}
        record |= {"seconds": mean(row.seconds), "seconds std": spread(row.seconds), "optimum": row.curve.optimum}
        records.append(record)
    return pd.DataFrame(records)


def _plus_minus(values: Sequence[float], name: str) -> str:
    """Returns `1.9123 ± 0.0031`, without the second where there is one value."""
    if not values:
        return "-"
    text = metric_text(name, mean(values))
    return text if len(values) == 1 else f"{text} ± {metric_text(name, spread(values))}"


def _numbers(values: Sequence[float], row: Row) -> str:
    """Returns `120 ± 4`, with `(2 of 3)` where some runs did not reach the target; `-` where nothing was logged."""
    if not values:
        return "not reached"
    if any(map(math.isnan, values)):
        return "-"
    digits = 0 if mean(values) >= 100 else 1
    text = f"{mean(values):.{digits}f}" + (f" ± {spread(values):.{digits}f}" if len(values) > 1 else "")
    of = len(row.curve.best.finals)
    return text if len(values) == of else f"{text} ({len(values)} of {of})"


def _runs(row: Row) -> str:
    best = row.curve.best
    diverged = len(best.finals) - len(best.values)
    return f"{len(best.finals)}" + (f" ({diverged} diverged)" if diverged else "")


def table_text(rows: Sequence[Row], target: float, asked: Asked, width: int | None) -> str:
    """Returns the table for a terminal of `width` columns; None where there is none."""
    names = _tuned_names(rows, asked)
    goal = metric_text(asked.metric, target)
    columns = [
        Column(names.pop(asked.by), [row.curve.name for row in rows], flexible=True),
        Column(names.pop(asked.axis), [format_value(row.curve.best.axis) for row in rows], right=True),
    ]
    for column, name in names.items():
        cells = [format_value(row.curve.best.settings.get(column)) for row in rows]
        columns.append(Column(name, cells, right=True, flexible=True))
    finals = [_plus_minus(row.curve.best.values, asked.metric) for row in rows]
    columns += [
        Column(metric_label(asked.metric), finals, right=True),
        Column("seeds", [_runs(row) for row in rows], right=True),
        Column(f"steps to {goal}", [_numbers(row.steps, row) for row in rows], right=True),
        Column(f"seconds to {goal}", [_numbers(row.seconds, row) for row in rows], right=True),
        Column("optimum", [_OPTIMUM[row.curve.optimum] for row in rows]),
    ]
    return "\n".join(render(columns, width))


def remarks(rows: Sequence[Row], asked: Asked) -> list[str]:
    """Returns a line for each optimizer whose best value of the axis is not between others that were tried."""
    name = short_names([asked.axis])[asked.axis]
    lines = []
    for row in rows:
        best = format_value(row.curve.best.axis)
        say = {
            "lowest": f"the best {name}, {best}, is the lowest that was tried",
            "highest": f"the best {name}, {best}, is the highest that was tried",
            "only": f"{best} is the only {name} that was tried",
            "none": f"every run diverged, the lowest {name} was {format_value(row.curve.profile[0].axis)}",
        }
        if row.curve.optimum in say:
            lines.append(f"{row.curve.name}: {say[row.curve.optimum]}")
    return lines
