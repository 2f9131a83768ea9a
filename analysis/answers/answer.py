"""The whole answer to a sweep: settings, the best one, what matters, what it costs, what to try next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.answers.compare import Comparison, compare, ranked
from analysis.answers.cost import TIME, ToTarget, pareto, time_to_target
from analysis.answers.edges import Edge, edges
from analysis.answers.importance import importance
from analysis.answers.metric import direction, find_metric, known_metrics, usual_metric
from analysis.answers.settings import OVER, Setting, averaged_over, settings, settings_by
from analysis.answers.stages import of_stage
from analysis.parameters import find_column, named_as_in, with_absent_values
from analysis.variance import Shares
from gpt_opt.errors import Problem, RequestError


@dataclass(frozen=True)
class Answer:
    """What a sweep says about a metric.

    Attributes:
        metric: Its name in metrics.jsonl.
        greater: Whether greater values of it are better.
        by: The config keys that make a setting.
        over: What runs of one setting differ in.
        stages: The stages of the sweep that it is about; empty where there are none. Of several, `stage` is in `by`.
        averaged: Other config keys that vary within settings, which their means are over too.
        settings: The best first; those without a mean at the end.
        comparison: The best against the others; None where no run has a value.
        shares: Which parameter matters; None where that cannot be said.
        front: The settings that no other one beats in metric and `cost` at once, the cheapest first.
        cost: What the front is against: `time_s`, `tokens` or `gpu_s`.
        edges: Parameters whose best value is the lowest or the highest that was tried.
        target: Value of the metric to time; None where none was asked for.
        reaches: How long the runs of each setting took to it.
        known: The metrics that runs have a value of.
    """

    metric: str
    greater: bool
    by: tuple[str, ...]
    over: str
    stages: tuple[str, ...]
    averaged: tuple[str, ...]
    settings: tuple[Setting, ...]
    comparison: Comparison | None
    shares: Shares | None
    front: tuple[Setting, ...]
    cost: str
    edges: tuple[Edge, ...]
    target: float | None
    reaches: tuple[ToTarget, ...]
    known: tuple[str, ...]

    @property
    def best(self) -> Setting | None:
        """The setting with the best mean; None where no run has a value."""
        return None if self.comparison is None else self.comparison.best

    @property
    def counts(self) -> dict[str, int]:
        """Runs in the means and out of them: counted, failed, diverged, unfinished, missing (without a value)."""
        totals = {"counted": sum(item.n for item in self.settings)}
        for name in ("failed", "diverged", "unfinished", "missing"):
            totals[name] = sum(getattr(item, name) for item in self.settings)
        return totals

    def sentence(self) -> str:
        """Returns the answer in one sentence for people."""
        from analysis.answers.words import summary

        return summary(self)

    def table(self) -> pd.DataFrame:
        """Returns a row a setting, the best first, numbers unrounded.

        Columns: the config keys of `by`, then `mean`, `low`, `high` (95% interval), `n`, `failed`, `diverged`,
        `unfinished`, `missing`, `difference` to the best and its corrected `p` (NaN for the best itself),
        `distinguishable` from the best (NA where not tested), mean costs, `on_front`, and with a target `reached`,
        `steps_to_target`, `seconds_to_target`.
        """
        pairs = {} if self.comparison is None else {id(pair.other): pair for pair in self.comparison.pairs}
        front = {id(item) for item in self.front}
        reaches = {id(item.setting): item for item in self.reaches}
        records = []
        for item in self.settings:
            record: dict[str, Any] = dict(item.values)
            record |= {"mean": item.mean, "low": item.low, "high": item.high, "n": item.n, "failed": item.failed}
            record |= {"diverged": item.diverged, "unfinished": item.unfinished, "missing": item.missing}
            pair = pairs.get(id(item))
            record |= {"difference": pair.difference, "p": pair.p} if pair else {"difference": math.nan, "p": math.nan}
            record["distinguishable"] = pair.distinguishable if pair and pair.test else None
            record |= {**item.costs, "on_front": id(item) in front}
            if (reach := reaches.get(id(item))) is not None:
                record |= {"reached": reach.reached, "steps_to_target": reach.steps, "seconds_to_target": reach.seconds}
            records.append(record)
        table = pd.DataFrame(records)
        return table.astype({"distinguishable": "boolean"}) if records else table


def answer(
    runs: pd.DataFrame,
    metric: str | None = None,
    by: Sequence[str] | None = None,
    over: str = OVER,
    *,
    stage: str | None = None,
    goal: str | None = None,
    cost: str = TIME,
    target: float | None = None,
    metrics: pd.DataFrame | None = None,
    of_sweep: Mapping[str, str] | None = None,
) -> Answer:
    """Answers what a sweep was made for: which setting is the best, and how sure that is.

    Args:
        runs: What `load_runs` returned, or some of its rows: a row for every run, those included that have not ended.
        metric: Name or label of the metric; None for accuracy in evaluations, else evaluation loss, whichever there is.
        by: Config keys (or the ends of them) whose values make a setting; None for all that vary but `over`.
        over: The config key that runs of one setting differ in.
        stage: Name of a stage, of a sweep that has them; None for those that no other stage starts from: what it was
            made for.
        goal: `minimize` or `maximize`, for a metric whose direction is not known.
        cost: What the Pareto front is against: `time_s`, `tokens`, or `gpu_s` where the frame has it.
        target: A value of the metric: how long do runs take to it?
        metrics: What `load_metrics` returned of the same runs, for `target`.
        of_sweep: Name and goal of the metric that the sweep file has, which is the one where none is named.

    Raises:
        RequestError: If the runs have no such metric, no such config key, or no such stage.
        GptOptError: If nothing says which direction of the metric is better.
    """
    if of_sweep and metric in (None, of_sweep["name"]):
        metric, goal = of_sweep["name"], goal or of_sweep["goal"]
        runs = runs if metric in runs.columns else runs.assign(**{metric: math.nan})  # no run has come so far
    over = find_column(runs, over) if over != OVER else over
    runs, names = of_stage(with_absent_values(runs), stage, over)
    name = usual_metric(runs) if metric is None else find_metric(runs, metric)
    greater = direction(name, goal)
    keys = settings_by(runs, None if by is None else [find_column(runs, key) for key in by], over)
    if over in keys:
        fix = "give --over another key, or leave it out of --by"
        raise RequestError([Problem("--over", f"must not be among the keys that are compared, but is {over}", fix)])
    found = settings(runs, name, keys, over)
    order = ranked(found, greater)
    comparison = compare(found, greater, over)
    without = [item for item in found if not item.n]
    reaches: Sequence[ToTarget] = ()
    if target is not None and metrics is not None:
        reaches = time_to_target(order, runs, named_as_in(runs, metrics), target, name, greater)
    return Answer(
        metric=name,
        greater=greater,
        by=tuple(keys),
        over=over,
        stages=names,
        averaged=tuple(averaged_over(runs, keys, over)),
        settings=(*order, *without),
        comparison=comparison,
        shares=importance(runs, name, over=over),
        front=tuple(pareto(order, greater, cost)),
        cost=cost,
        edges=() if comparison is None or comparison.tied else tuple(edges(found, comparison.best)),
        target=target,
        reaches=tuple(reaches),
        known=tuple(known_metrics(runs)),
    )
