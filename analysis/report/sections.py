"""The parts of a report that need no script: facts, stages, failures, settings, configs, cost, provenance, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.answers import Answer
from analysis.answers.words import remarks
from analysis.parameters import format_value, short_names, sort_key
from analysis.report.contents import Contents
from analysis.report.costs import total
from analysis.report.markup import Html, command, details, joined, table, tag
from analysis.report.origin import Field, Origin, origin_of
from analysis.report.texts import count, duration, moment, plain, signed
from gpt_opt.records.metrics import metric_label, metric_text
from gpt_opt.records.state import State

_MOST_SETTINGS = 100
"""Settings in the table of them."""

_MOST_NAMES = 12
"""Runs that a list names before it is unfolded."""

_MOST_VALUES = 16
"""Values of a config key that are listed."""

_MOST_NOTES = 100


def sections(contents: Contents, runs: Html) -> dict[str, Html]:
    """Returns all sections by their titles; those with nothing to say are left out.

    Args:
        contents: What the report has to say.
        runs: The section that the script fills.
    """
    origin = origin_of(contents.runs)
    found: dict[str, Html | None] = {
        "Stages": _stages(contents),
        "Failures": joined(*(_failure(contents, group, places) for group, places in contents.failures)),
        "Comparison": _settings(contents.source.answer, contents),
        "Runs": runs,
        "Configuration": _configuration(contents),
        "Cost": _cost(contents),
        "Provenance": _provenance(origin),
        "Reproduce": _reproduce(contents, origin),
        "Notes": _notes(contents),
    }
    return {title: html for title, html in found.items() if html}


def facts(contents: Contents) -> Html:
    """Returns the numbers at the top."""
    runs, status = contents.runs, contents.source.status
    states = [run.state for run in runs]
    others = {state: states.count(state) for state in dict.fromkeys(states) if state != State.COMPLETED}
    items = [("runs complete", f"{states.count(State.COMPLETED)} of {len(runs)}", _listed(others))]
    if not contents.source.is_over and status is not None:
        eta = "" if status["eta_s"] is None else f"about {duration(status['eta_s'])} left"
        items.append(("progress", f"{status['fraction']:.0%}", eta))
    if contents.best is not None:
        best = runs[contents.best]
        value = metric_text(contents.metric, contents.value(best, contents.metric))
        named = ", ".join(filter(None, [best.name, contents.parameters(best)]))
        items.append((f"best {metric_label(contents.metric)}", value, named))
    cost = total(run.cost for run in runs)
    if cost.begin is not None and cost.end is not None:
        items.append(("wall time", duration(cost.end - cost.begin), f"from {moment(cost.begin)}"))
    if cost.gpu_seconds:
        items.append(("GPU-hours", f"{cost.gpu_seconds / 3600:.3g}", f"{duration(cost.seconds)} of runs"))
    else:
        items.append(("time of all runs", duration(cost.seconds), "on CPUs alone" if cost.seconds else ""))
    return joined(*(tag("div", tag("dt", name), tag("dd", value, tag("small", more))) for name, value, more in items))


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


def _state(state: str) -> Html:
    return tag("span", signed(state), class_=f"state {state}")


def _button(contents: Contents, place: int) -> Html:
    return tag("button", contents.runs[place].name, type="button", data_run=place)


def _buttons(contents: Contents, places: Sequence[int]) -> Html:
    made = [joined(_button(contents, place), " ") for place in places]
    rest = details(f"and {len(made) - _MOST_NAMES} more", *made[_MOST_NAMES:]) if len(made) > _MOST_NAMES else None
    return tag("div", *made[:_MOST_NAMES], rest, class_="runs")


def _failure(contents: Contents, group: Mapping[str, Any], places: Sequence[int]) -> Html:
    shared = ", ".join(f"{key}={value}" for key, value in group["parameters"].items())
    says = contents.texts.text(group["says"])
    head = tag("div", tag("strong", count(len(places), "run")), " ", _state(group["state"]), ": ", says)
    all_have = tag("div", f"all of them have {shared}", class_="note") if shared else None
    return tag("div", head, all_have, _buttons(contents, places), class_="failure")


# -- the tree of a pipeline -------------------------------------------------------------------------------------------


def _stages(contents: Contents) -> Html | None:
    status = contents.source.status
    if status is None or not status["stages"]:
        return None
    children: dict[tuple[str, str], list[int]] = {}
    for place, run in enumerate(contents.runs):
        children.setdefault((run.parent, run.stage), []).append(place)
    return tag("ul", *_below("", children, contents, status["stages"]), class_="tree")


def _below(
    parent: str, children: Mapping[tuple[str, str], list[int]], contents: Contents, stages: Sequence[Mapping[str, Any]]
) -> Iterator[Html]:
    """Yields each stage of which runs start from `parent`, with these runs and what starts from them."""
    for stage in stages:
        places = children.get((parent, stage["name"]))
        if not places:
            continue
        done = sum(contents.runs[place].state == State.COMPLETED for place in places)
        bar = tag("progress", max=len(places), value=done, aria_label=f"{stage['name']}: {done} of {len(places)} done")
        start = tag("span", f"from {stage['from']}", class_="soft") if stage["from"] else None
        lines = []
        for place in places:
            below = list(_below(contents.runs[place].name, children, contents, stages))
            lines.append(tag("li", _leaf(contents, place), tag("ul", *below) if below else None))
        yield tag("li", tag("strong", stage["name"]), " ", bar, f" {done}/{len(places)} ", start, tag("ul", *lines))


def _leaf(contents: Contents, place: int) -> Html:
    run = contents.runs[place]
    value = plain(contents.value(run, contents.metric))
    result = f" {metric_label(contents.metric)} {metric_text(contents.metric, value)}" if value is not None else None
    parameters = tag("span", contents.parameters(run), class_="soft")
    return joined(_button(contents, place), " ", parameters, " ", _state(run.state), result)


# -- settings and configs ---------------------------------------------------------------------------------------------


def _settings(answer: Answer, contents: Contents) -> Html | None:
    """Returns the table of settings, the best first, and what is to be said of it; None for a single setting."""
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
        lines.append(f"{count(more, 'further setting')} not in the table; gptopt results has all")
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


def _configuration(contents: Contents) -> Html:
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


# -- cost, provenance, commands ---------------------------------------------------------------------------------------


def _cost(contents: Contents) -> Html:
    cost = total(run.cost for run in contents.runs)
    rows = []
    if cost.begin is not None and cost.end is not None:
        rows += [("first start", moment(cost.begin)), ("last end", moment(cost.end))]
        rows += [("wall time", duration(cost.end - cost.begin))]
    rows.append(("time of all runs", f"{duration(cost.seconds)} in {count(cost.attempts, 'attempt')}"))
    on_gpus = f"{cost.gpu_seconds / 3600:.3g}: the time of each attempt times its GPUs"
    rows.append(("GPU-hours", on_gpus if cost.gpu_seconds else "0: no attempt had a GPU"))
    free = sum(run.state == State.COMPLETED and not run.cost.attempts for run in contents.runs)
    if free and contents.source.sweep is not None:
        rows.append(("made before", f"{count(free, 'run')} had been completed outside this sweep, and cost it nothing"))
    return table([], rows)


def _field(field: Field) -> tuple[str, Html]:
    lines = []
    for value, names in field.values:
        of = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        which = None if field.is_shared else tag("span", f" {count(len(names), 'run')}: {of}", class_="soft")
        lines.append(tag("div", value, which))
    return field.name, joined(*lines)


def _provenance(origin: Origin) -> Html | None:
    rows: list[Sequence[object]] = [_field(field) for field in (*origin.fields, *origin.differing)]
    if origin.packages:
        rows.append(("packages", ", ".join(f"{name} {version}" for name, version in origin.packages.items())))
    if not rows:
        return None
    pins = "\n".join(f"{name}=={version}" for name, version in origin.more_packages.items())
    more = details(f"All other packages ({len(origin.more_packages)})", tag("pre", pins, tabindex=0)) if pins else None
    return joined(table([], rows), more)


def _reproduce(contents: Contents, origin: Origin) -> Html:
    parts: list[Html | None] = [
        tag("p", "In the folder that the runs were started in, with the packages above.", class_="note")
    ]
    commits = origin.commits
    if len(commits) == 1 and re.fullmatch(r"[0-9a-f]{40}", commits[0]):
        parts += [tag("h3", "The code"), command(f"git checkout {commits[0]}")]
    if origin.is_dirty:
        note = "There were changes that were not committed: git apply takes provenance.diff of the directory of a run."
        parts.append(tag("p", note, class_="note"))
    sweep = contents.source.sweep
    if sweep is not None and (submission := sweep.submission()).file:
        words = ["gptopt", "submit", submission.file, *submission.extra, "--backend", submission.backend]
        parts += [tag("h3", "All runs"), command(shlex.join(words))]
        try:
            text = (sweep.root / "params.json").read_text(encoding="utf-8")
            parts.append(details(f"The sweep file {submission.file}", tag("pre", text, tabindex=0)))
        except (OSError, ValueError):
            pass
    known = sum(run.overrides is not None for run in contents.runs)
    by_hand = details(count(known, "command"), tag("pre", id="by-hand", tabindex=0))
    parts += [tag("h3", "Each run by hand"), by_hand] if known else []
    return joined(*parts)


def _notes(contents: Contents) -> Html | None:
    lines = list(dict.fromkeys(map(contents.texts.text, contents.source.notes)))
    more = [f"… and {len(lines) - _MOST_NOTES} more"] if len(lines) > _MOST_NOTES else []
    return tag("ul", *(tag("li", line) for line in (*lines[:_MOST_NOTES], *more))) if lines else None
