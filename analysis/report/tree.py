"""Runs by their names in the text of a report, and the tree of the stages of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.report.contents import Contents
from analysis.report.markup import Html, details, joined, tag
from analysis.report.texts import plain, signed
from gpt_opt.records.metrics import metric_label, metric_text
from gpt_opt.records.state import State

_MOST_NAMES = 12
"""Runs that a list names before it is unfolded."""


def state_tag(state: str) -> Html:
    """Returns a state with its sign and colour."""
    return tag("span", signed(state), class_=f"state {state}")


def _button(contents: Contents, place: int) -> Html:
    return tag("button", contents.runs[place].name, type="button", data_run=place)


def buttons(contents: Contents, places: Sequence[int]) -> Html:
    """Returns the names of runs, each of which selects its run."""
    made = [joined(_button(contents, place), " ") for place in places]
    rest = details(f"and {len(made) - _MOST_NAMES} more", *made[_MOST_NAMES:]) if len(made) > _MOST_NAMES else None
    return tag("div", *made[:_MOST_NAMES], rest, class_="runs")


def stages(contents: Contents) -> Html | None:
    """Returns the tree: each stage, its runs, and what starts from them; None of a sweep without stages."""
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
    return joined(_button(contents, place), " ", parameters, " ", state_tag(run.state), result)
