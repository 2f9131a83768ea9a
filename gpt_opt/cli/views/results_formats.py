"""The answer to a sweep for a spreadsheet, a paper, a page, a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.answers import Answer, Setting
from analysis.answers.compare import number_of
from analysis.answers.words import remarks
from analysis.parameters import format_value
from analysis.tables import json_value
from gpt_opt.cli.views.results import cells, is_number
from gpt_opt.records.metrics import metric_label


def as_csv(answer: Answer) -> str:
    """Returns the table as CSV: unrounded numbers, the metric in a column of its own."""
    table = answer.table()
    for key in answer.by:
        table[key] = table[key].map(lambda value: format_value(value) if isinstance(value, list | dict) else value)
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
    align = "".join("r" if is_number(texts) else "l" for texts in table.values())

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

    rule = ["---:" if is_number(texts) else "---" for texts in table.values()]
    rows = [line(row) for row in zip(*table.values(), strict=True)]
    note = _escaped(f"{_plain_caption(answer)}. {answer.sentence()}.", _MARKDOWN)
    return "\n".join([line(list(table)), f"| {' | '.join(rule)} |", *rows, "", note]) + "\n"


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
    return {key: json_value(value) for key, value in record.items()}


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
