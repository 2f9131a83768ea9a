"""What was compared and with which configs: the tables of settings and of config keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.answers.words import remarks
from analysis.parameters import format_value, short_names, sort_key
from analysis.report.contents import Contents
from analysis.report.markup import Html, details, joined, table, tag
from gpt_opt.errors import counted
from gpt_opt.records.metrics import metric_label, metric_text

_MOST_SETTINGS = 100
"""Settings in the table of them."""

_MOST_VALUES = 16
"""Values of a config key that are listed."""


def comparison(contents: Contents) -> Html | None:
    """Returns the table of settings, the best first, and what is to be said of it; None for a single setting."""
    answer = contents.source.answer
    if len(answer.settings) < 2:
        return None
    names = short_names(answer.by)
    pairs = {} if answer.comparison is None else {id(pair.other): pair for pair in answer.comparison.pairs}
    rows = []
    for item in answer.settings[:_MOST_SETTINGS]:
        pair = pairs.get(id(item))
        apart = "" if pair is None else ("yes" if pair.distinguishable else "no") if pair.test else "too few to tell"
        ends = "" if item.n < 2 else " to ".join(metric_text(answer.metric, end) for end in (item.low, item.high))
        mean = metric_text(answer.metric, item.mean) if item.n else ""
        values = [format_value(contents.texts.value(item.values[key])) for key in answer.by]
        apart = "the best" if item is answer.best else apart
        rows.append([*values, mean, ends, item.n, item.without_value(), apart])
    head = [*names.values(), metric_label(answer.metric), "95% interval", "n", "left out", "differs from the best"]
    lines = remarks(answer)
    if (more := len(answer.settings) - _MOST_SETTINGS) > 0:
        lines.append(f"{counted(more, 'further setting')} not in the table; gptopt results has all")
    numbers = range(len(names), len(names) + 3)
    notes = (tag("p", contents.texts.text(line), class_="note") for line in lines)
    return joined(table(head, rows, numbers, plain=False), *notes)


def _values(values: Sequence[Any]) -> str:
    distinct = {format_value(value): value for value in values if value is not None}
    texts = sorted(distinct, key=lambda text: sort_key(distinct[text]))
    if len(texts) <= _MOST_VALUES:
        return ", ".join(texts)
    if all(isinstance(value, int | float) for value in distinct.values()):
        return f"{len(texts):,} values from {texts[0]} to {texts[-1]}"
    return ", ".join(texts[:_MOST_VALUES]) + f", … ({len(texts):,} values)"


def configuration(contents: Contents) -> Html:
    """Returns the keys that vary with their values, and what all runs share."""

    def rows(keys: Sequence[str]) -> list[tuple[Html, str]]:
        shown = ((key, [contents.texts.value(contents.value(run, key)) for run in contents.runs]) for key in keys)
        return [(tag("code", key), _values(values)) for key, values in shown]

    swept = rows([key.key for key in contents.keys])
    others = contents.differing
    constant = [f"{key}: {format_value(contents.texts.value(value))}" for key, value in contents.constant.items()]
    more = table(["key", "values"], rows(others))
    return joined(
        table(["key", "values"], swept) if swept else tag("p", "All runs have the same config."),
        details(f"Other keys that differ ({len(others)})", more) if others else None,
        details(f"What all runs share ({len(constant)} keys)", tag("pre", "\n".join(sorted(constant)), tabindex=0)),
        tag("p", "The whole config of a run is shown where it is selected in the table.", class_="note"),
    )
