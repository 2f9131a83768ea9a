"""The parts of a report that need no script: all sections but that of the runs, and the numbers at the top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.report.again import commands, cost_table, provenance
from analysis.report.contents import Contents
from analysis.report.costs import total
from analysis.report.markup import Html, joined, tag
from analysis.report.origin import origin_of
from analysis.report.settings import comparison, configuration
from analysis.report.texts import moment
from analysis.report.tree import buttons, stages, state_tag
from gpt_opt.errors import counted, duration
from gpt_opt.records.metrics import metric_label, metric_text
from gpt_opt.records.state import State

_MOST_NOTES = 100


def sections(contents: Contents, runs: Html) -> dict[str, Html]:
    """Returns all sections by their titles, with that of the runs, which the script fills; empty ones are left out."""
    origin = origin_of(contents.runs)
    found: dict[str, Html | None] = {
        "Stages": stages(contents),
        "Failures": joined(*(_failure(contents, group, places) for group, places in contents.failures)),
        "Comparison": comparison(contents),
        "Runs": runs,
        "Configuration": configuration(contents),
        "Cost": cost_table(contents),
        "Provenance": provenance(origin),
        "Reproduce": commands(contents, origin),
        "Notes": _notes(contents),
    }
    return {title: html for title, html in found.items() if html}


def facts(contents: Contents) -> Html:
    """Returns the numbers at the top."""
    runs, status = contents.runs, contents.source.status
    states = [run.state for run in runs]
    others = (f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != State.COMPLETED)
    items = [("runs complete", f"{states.count(State.COMPLETED)} of {len(runs)}", ", ".join(others))]
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
    if status is not None and status["efficiency"] is not None:
        items.append(("sweep efficiency", f"{status['efficiency']:.2f}", "training time over slot time"))
    return joined(*(tag("div", tag("dt", name), tag("dd", value, tag("small", more))) for name, value, more in items))


def _failure(contents: Contents, group: Mapping[str, Any], places: Sequence[int]) -> Html:
    shared = ", ".join(f"{key}={value}" for key, value in group["parameters"].items())
    says = contents.texts.text(group["says"])
    head = tag("div", tag("strong", counted(len(places), "run")), " ", state_tag(group["state"]), ": ", says)
    all_have = tag("div", f"all of them have {shared}", class_="note") if shared else None
    return tag("div", head, all_have, buttons(contents, places), class_="failure")


def _notes(contents: Contents) -> Html | None:
    lines = list(dict.fromkeys(map(contents.texts.text, contents.source.notes)))
    more = [f"… and {len(lines) - _MOST_NOTES} more"] if len(lines) > _MOST_NOTES else []
    return tag("ul", *(tag("li", line) for line in (*lines[:_MOST_NOTES], *more))) if lines else None
