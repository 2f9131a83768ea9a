"""The answer to a sweep in every format: for a terminal, a spreadsheet, a paper, a page, a program."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.answers import Answer, Pair, Setting, ToTarget
from analysis.answers.compare import number_of
from analysis.answers.next_runs import can_add_seeds
from analysis.answers.stages import STAGE, stages
from analysis.answers.words import COST_NAMES, p_text, remarks
from analysis.parameters import short_names, short_values
from gpt_opt.plan.resources import run_count
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


def _is_number(texts: Sequence[str]) -> bool:
    return all(re.fullmatch(r"-|not reached|[\[<]?[-+]?\d.*", text) for text in texts) and not all(
        text == "-" for text in texts
    )


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
    return f"{name}{run_count(len(own))}: {states}; {measure}"


def advice(answer: Answer, sweep: Sweep | None) -> list[str]:
    """Returns the commands that go on from an answer."""
    lines = []
    if sweep is not None and any(answer.counts[name] for name in ("unfinished", "failed", "diverged")):
        lines.append(f"gptopt status {sweep.label} says how the runs stand that are not in the means")
    comparison = answer.comparison
    if comparison is not None and comparison.pairs and not comparison.distinguishable and can_add_seeds(answer):
        lines.append("--seeds FILE writes the sweep file that adds seeds to the settings that may be the best")
    if answer.edges:
        lines.append("--extend FILE writes the sweep file that tries these values")
    return lines


def as_text(answer: Answer, head: str, width: int | None, advice: Sequence[str] = ()) -> str:
    """Returns an answer for a terminal.

    Args:
        answer: The answer.
        head: What it is about.
        width: Columns of the terminal; None where there is none.
        advice: Commands that go on from here, a line each.
    """
    lines = wrapped(head, width)
    if answer.settings:
        names = short_names(answer.by).values()
        columns = [
            Column(name, texts, right=_is_number(texts), flexible=name in names or not _is_number(texts))
            for name, texts in cells(answer).items()
        ]
        lines += ["", *render(columns, width)]
    sentence = answer.sentence()
    lines += ["", *wrapped(sentence, width)]
    lines += [part for line in (*remarks(answer), *advice) for part in wrapped(line, width)]
    return "\n".join(lines)


def as_csv(answer: Answer) -> str:
    """Returns the table as CSV: unrounded numbers, the metric in a column of its own."""
    table = answer.table()
    table.insert(0, "metric", answer.metric)
    return table.to_csv(index=False)


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\n": " ",
}
_MARKDOWN = {character: f"\\{character}" for character in "\\`*_|<"} | {"\n": " "}


def _escaped(text: str, replacements: Mapping[str, str]) -> str:
    return "".join(replacements.get(character, character) for character in text)


def as_latex(answer: Answer) -> str:
    """Returns the table for a paper, with the rules of the package booktabs."""
    table = cells(answer)
    align = "".join("r" if _is_number(texts) else "l" for texts in table.values())

    def line(texts: Sequence[str]) -> str:
        return " & ".join(_escaped(text, _LATEX) for text in texts) + r" \\"

    rows = [line(row) for row in zip(*table.values(), strict=True)]
    caption = _escaped(_plain_caption(answer), _LATEX)
    head = [f"% {caption}", rf"\begin{{tabular}}{{{align}}}", r"\toprule", line(list(table)), r"\midrule"]
    return "\n".join([*head, *rows, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _plain_caption(answer: Answer) -> str:
    interval = " with 95% t-intervals" if any(item.n > 1 for item in answer.settings) else ""
    method = "" if answer.comparison is None else answer.comparison.method
    return f"{metric_label(answer.metric)}, mean over {number_of(None, answer.over)}{interval}" + (
        f"; {method}" if method else ""
    )


def as_markdown(answer: Answer) -> str:
    """Returns the table for a page in Markdown."""
    table = cells(answer)

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(_escaped(text, _MARKDOWN) for text in texts) + " |"

    rule = ["---:" if _is_number(texts) else "---" for texts in table.values()]
    rows = [line(row) for row in zip(*table.values(), strict=True)]
    note = _escaped(f"{_plain_caption(answer)}. {answer.sentence()}.", _MARKDOWN)
    return "\n".join([line(list(table)), f"| {' | '.join(rule)} |", *rows, "", note]) + "\n"


def _json(value: Any) -> Any:
    """Returns a value as JSON can hold it: NaN and infinite numbers are null."""
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def as_record(answer: Answer, sweep: str | None) -> dict[str, Any]:
    """Returns an answer as JSON values; what is not known is null."""
    comparison, shares = answer.comparison, answer.shares
    rows = zip(answer.settings, answer.table().to_dict("records"), strict=True)
    settings = []
    for item, row in rows:
        rest = {name: value for name, value in row.items() if name not in item.values}
        settings.append({"values": dict(item.values), **rest, "runs": list(item.runs), "seeds": _samples(item)})
    record = {
        "sweep": sweep,
        "stages": list(answer.stages),
        "metric": answer.metric,
        "goal": "maximize" if answer.greater else "minimize",
        "by": list(answer.by),
        "over": answer.over,
        "averaged": list(answer.averaged),
        "counts": answer.counts,
        "sentence": answer.sentence(),
        "best": None if answer.best is None else dict(answer.best.values),
        "distinguishable": None if comparison is None else comparison.distinguishable,
        "method": None if comparison is None else comparison.method or None,
        "tests": 0 if comparison is None else comparison.tests,
        "shares": None if shares is None else dict(shares.of_factor),
        "shares_together": None if shares is None else shares.overlap,
        "shares_left": None if shares is None else shares.left,
        "cost": answer.cost,
        "front": [dict(item.values) for item in answer.front],
        "edges": [{"key": edge.key, "best": edge.best, "is": edge.where, "try": edge.further} for edge in answer.edges],
        "target": answer.target,
        "remarks": remarks(answer),
        "settings": settings,
    }
    return {key: _json(value) for key, value in record.items()}


def _samples(item: Setting) -> list[dict[str, Any]]:
    """Returns the value of each run, with what it was averaged over."""
    found = zip(item.runs, item.samples.items(), strict=True)
    return [{"run_id": run, "over": list(block)[:-1], "value": value} for run, (block, value) in found]


FORMATS: Mapping[str, Callable[[Answer], str]] = {
    "csv": as_csv,
    "latex": as_latex,
    "markdown": as_markdown,
}
"""Formats that are the table alone."""
