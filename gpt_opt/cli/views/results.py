"""The answer to a sweep for a terminal, and the cells of its table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

from analysis.answers import Answer, Pair, Setting, ToTarget
from analysis.answers.compare import number_of
from analysis.answers.next_runs import can_add_seeds
from analysis.answers.stages import STAGE, stages
from analysis.answers.words import COST_NAMES, p_text, remarks
from analysis.parameters import short_names, short_values
from gpt_opt.errors import counted
from gpt_opt.records.metrics import metric_label, metric_text
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Sweep
from gpt_opt.table import Column, render, wrapped

VALUE_LIMIT = 60
"""Characters of a value in a table; of a longer one the middle is left out."""

Cells = dict[str, list[str]]
"""Header of a column to its texts."""


def cells(answer: Answer) -> Cells:
    """Returns the table of an answer as texts, a row a setting, the best first; only columns that say something."""
    label, rows = metric_label(answer.metric), answer.settings
    names = short_names(answer.by, reserved=(label, "95% interval", "n"))
    found = {names[key]: short_values([item.values[key] for item in rows], VALUE_LIMIT) for key in answer.by}
    found[label] = [metric_text(answer.metric, item.mean) if item.n else "-" for item in rows]
    if any(item.n > 1 for item in rows):
        found["95% interval"] = [_interval(answer.metric, item) for item in rows]
    found["n"] = [str(item.n) for item in rows]
    left = [item.without_value() for item in rows]
    found |= {"left out": left} if any(left) else {}
    if answer.comparison is not None and answer.comparison.pairs:
        pairs = {id(pair.other): pair for pair in answer.comparison.pairs}
        found["against the best"] = [_against(pairs.get(id(item)), item, answer) for item in rows]
    if any(answer.cost in item.costs for item in rows):
        found[COST_NAMES[answer.cost]] = [_cost(item.costs.get(answer.cost)) for item in rows]
    return found | _target_cells(answer)


def _interval(metric: str, item: Setting) -> str:
    if math.isnan(item.low):
        return "-"
    return f"[{metric_text(metric, item.low)}, {metric_text(metric, item.high)}]"


def _against(pair: Pair | None, item: Setting, answer: Answer) -> str:
    if pair is None:
        return "best" if item is answer.best else "-"
    if not pair.test:
        return f"{number_of(pair.n, answer.over)}: no test"
    return p_text(pair.p) + ("" if pair.distinguishable else ", not distinguishable")


def _cost(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _target_cells(answer: Answer) -> Cells:
    if answer.target is None:
        return {}
    goal, known = metric_text(answer.metric, answer.target), {id(item.setting): item for item in answer.reaches}
    found = [known.get(id(item)) for item in answer.settings]
    return {
        f"steps to {goal}": [_steps(item) for item in found],
        f"seconds to {goal}": [_seconds(item) for item in found],
    }


def _steps(item: ToTarget | None) -> str:
    if item is None:
        return "-"
    some = "" if item.reached == item.setting.n else f" ({item.reached} of {item.setting.n})"
    return f"{item.steps:.0f}{some}" if item.reached else "not reached"


def _seconds(item: ToTarget | None) -> str:
    return "-" if item is None or math.isnan(item.seconds) else f"{item.seconds:.3g}"


_ONE = r"[-+]?[\d.,]+(?:e[-+]?\d+)?%?"
_NUMBER = re.compile(rf"{_ONE}(?: \(\d+ of \d+\))?|\[{_ONE}, {_ONE}\]")


def is_number(texts: Sequence[str]) -> bool:
    """Returns whether a column is one of numbers, or of intervals of them, and stands to the right."""
    numbers = [text for text in texts if text not in ("-", "not reached")]
    return bool(numbers) and all(_NUMBER.fullmatch(text) for text in numbers)


def head(answer: Answer, sweep: Sweep | None, runs: pd.DataFrame) -> str:
    """Returns what an answer is about: the sweep, how far it is, the metric."""
    own = runs[runs[STAGE].isin(answer.stages)] if answer.stages else runs
    counts = own["state"].value_counts()
    states = ", ".join(f"{counts[state]} {state}" for state in reversed(State) if state in counts)
    name = "" if sweep is None else f"sweep {sweep.label}, "
    if answer.stages:
        others = ", ".join(stage for stage in stages(runs) if stage not in answer.stages)
        name += f"stage{'s' * (len(answer.stages) > 1)} {' and '.join(answer.stages)}"
        name += f" (--stage for {others}), " if others else ", "
    goal = "greater" if answer.greater else "less"
    measure = f"{metric_label(answer.metric)}, {goal} is better, mean over {number_of(None, answer.over)}"
    return f"{name}{counted(len(own), 'run')}: {states}; {measure}"


def advice(answer: Answer, sweep: Sweep | None) -> list[str]:
    """Returns the commands that go on from an answer."""
    lines = []
    if sweep is not None and any(answer.counts[name] for name in ("unfinished", "failed", "diverged")):
        lines.append(f"gptopt status {sweep.label} says how the runs stand that are not in the means")
    comparison = answer.comparison
    if comparison is None and sweep is not None and sweep.submission().program.folder:
        lines.append("gptopt doctor says where its metrics are sought; --metric NAME compares the runs by another one")
    if comparison is not None and comparison.pairs and not comparison.distinguishable and can_add_seeds(answer):
        lines.append("--seeds FILE writes the sweep file that adds seeds to the settings that may be the best")
    if answer.edges:
        lines.append("--extend FILE writes the sweep file that tries these values")
    return lines


def as_text(answer: Answer, head: str, width: int | None, advice: Sequence[str] = ()) -> str:
    """Returns an answer for a terminal, below what it is about and above the commands that go on from it."""
    lines = wrapped(head, width)
    if answer.settings:
        names = short_names(answer.by).values()
        columns = [
            Column(name, texts, right=is_number(texts), flexible=name in names or not is_number(texts))
            for name, texts in cells(answer).items()
        ]
        lines += ["", *render(columns, width)]
    sentence = answer.sentence()
    lines += ["", *wrapped(sentence, width)]
    lines += [part for line in (*remarks(answer), *advice) for part in wrapped(line, width)]
    return "\n".join(lines)
