"""Which metric a question is about: by its name, by the label that tables show, or the usual one of the runs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.parameters import beside_key, parameter_columns
from analysis.run_table import RUN_COLUMNS
from gpt_opt.errors import GptOptError, Problem, RequestError
from gpt_opt.records.metrics import (
    EVALUATION,
    USUAL,
    comparable,
    greater_is_better,
    is_of_training,
    metric_info,
    metric_label,
    nearest_metrics,
    own_metrics,
    plain,
)


def metric_columns(runs: pd.DataFrame) -> list[str]:
    """Returns the columns of a `load_runs` frame that hold metrics."""
    others = {*RUN_COLUMNS, *parameter_columns(runs)}
    floats = [name for name in runs.columns if name not in others and pd.api.types.is_float_dtype(runs[name])]
    logged = runs.attrs.get("logged", ())
    return [name for name in floats if "/" in name or "." not in name or name in logged]


def find_metric(runs: pd.DataFrame, name: str) -> str:
    """Returns the metric that a user means: `eval/accuracy` is `eval/rewards/accuracies`.

    Args:
        runs: What `load_runs` returned.
        name: Name or label of a metric, or the end of either; where two end so, that of evaluations is meant.

    Raises:
        RequestError: If the runs have others, but none of that name, and it is none of ours; it names the nearest.
    """
    metrics = metric_columns(runs)
    if beside_key(name) in metrics:
        return beside_key(name)
    if name in metrics or metric_info(name) is not None or not metrics:
        return name
    forms = {metric: (plain(metric), plain(metric_label(metric))) for metric in metrics}
    wanted = plain(name)
    exact = [metric for metric, known in forms.items() if wanted in known]
    ends = [metric for metric, known in forms.items() if any(form.endswith(f" {wanted}") for form in known)]
    for found in (exact, [metric for metric in ends if metric.startswith(EVALUATION)], ends):
        if len(found) == 1:
            return found[0]
    problem = f"must be a metric of the runs, but is {name!r}"
    raise RequestError([Problem("--metric", problem, meant(name, metrics, ends))])


def meant(name: str, metrics: Sequence[str], near: Sequence[str] = ()) -> str:
    """Returns which metrics may be meant by a name of none, and which there are."""
    near = near or nearest_metrics(name, metrics, 2)
    return (f"did you mean {', '.join(near)}? " if near else "") + f"they have {', '.join(metrics)}"


def known_metrics(runs: pd.DataFrame) -> list[str]:
    """Returns the metrics of a `load_runs` frame that any run has a value of."""
    return [name for name in metric_columns(runs) if runs[name].notna().any()]


def usual_metric(runs: pd.DataFrame) -> str:
    """Returns the metric that runs are compared by unless someone says otherwise.

    One of `USUAL`, else the first of `own_metrics`. Where only training itself has one of `USUAL`, an evaluation of
    their own comes first.
    """
    has = known_metrics(runs)
    usual, own = [name for name in USUAL if name in has], own_metrics(has)
    if usual and is_of_training(usual[0]) and own and not is_of_training(own[0]):
        return own[0]
    return next(iter([*usual, *own]), USUAL[1])


def direction(metric: str, goal: str | None) -> bool:
    """Returns whether greater values of a metric are better.

    Args:
        metric: Its name in metrics.jsonl.
        goal: `minimize`, `maximize`, or None to look it up.

    Raises:
        GptOptError: If nothing says it.
    """
    known = greater_is_better(metric) if goal is None else goal == "maximize"
    if known is None:
        raise GptOptError(
            f"a metric to compare by must have a direction, but none is known of {metric}; add --goal minimize or "
            f"--goal maximize, or take one of {', '.join(comparable())}"
        )
    return known
