"""Which runs can be compared: finished, with a value of the metric, after the same number of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.parameters import follows, parameter_columns, short_names, varying_parameters
from gpt_opt.errors import GptOptError
from gpt_opt.records.metrics import comparable, greater_is_better
from gpt_opt.records.state import State

BY = "optimizer.optimizer_params.name"
AXIS = "optimizer.optimizer_params.lr"

TOLERANCE = 0.01
"""Fraction by which the tokens of two runs may differ: texts of other losses than lm are not all of one length."""

DIVERGED = "LossNotFinite"
"""The error of a training whose loss is NaN or infinite, as state.json names it."""

SAME = ("model", "data", "loss")
"""Groups of the config that must not differ between the runs of a comparison."""


class NothingToCompare(GptOptError):
    """The runs do not make a comparison."""


@dataclass(frozen=True)
class Asked:
    """What to compare.

    Attributes:
        metric: The metric whose final values are compared.
        greater: Whether greater values are better.
        by: Config column with a curve for each of its values.
        axis: Config column of the horizontal axis.
        tokens: Training tokens of the runs to compare; None takes the number that most runs have.
    """

    metric: str = "eval/loss"
    greater: bool = False
    by: str = BY
    axis: str = AXIS
    tokens: int | None = None

    def worse(self) -> float:
        """Returns the value that every other one is better than."""
        return -math.inf if self.greater else math.inf

    def key(self, value: float) -> float:
        """Returns a number that is smaller for better values."""
        return -value if self.greater else value


def direction(metric: str, goal: str | None) -> bool:
    """Returns whether greater values of a metric are better.

    Args:
        metric: Its name in metrics.jsonl.
        goal: `minimize`, `maximize`, or None to look it up.

    Raises:
        NothingToCompare: If nothing says it.
    """
    known = greater_is_better(metric) if goal is None else goal == "maximize"
    if known is None:
        raise NothingToCompare(
            f"a metric to compare by must have a direction, but none is known of {metric}; add --goal minimize or "
            f"--goal maximize, or take one of {', '.join(comparable())}"
        )
    return known


def find_column(runs: pd.DataFrame, name: str) -> str:
    """Returns the config column that a user means by its dotted key or the end of it.

    Raises:
        NothingToCompare: If there is none, or more than one.
    """
    columns = parameter_columns(runs)
    found = [name] if name in columns else [column for column in columns if column.endswith(f".{name}")]
    if len(found) != 1:
        what = f"{', '.join(found)} have that name" if found else f"the runs have no {name}"
        raise NothingToCompare(f"a config key of the runs is needed, but {what}; {_varying(runs)}")
    return found[0]


def _varying(runs: pd.DataFrame) -> str:
    varying = varying_parameters(runs)
    return f"what varies between them is {', '.join(varying)}" if varying else "nothing varies between them"


def budget(runs: pd.DataFrame, asked: Asked) -> int:
    """Returns the training tokens at which runs are compared: those asked for, or those that most runs have.

    Args:
        runs: Finished runs with a value of the metric; at least one.
        asked: What to compare.
    """
    if asked.tokens is not None:
        return asked.tokens
    exact = runs["tokens"].value_counts()
    near = {tokens: _near(runs["tokens"], tokens).sum() for tokens in exact.index}
    return int(max(near, key=lambda tokens: (near[tokens], exact[tokens], tokens)))


def _near(tokens: pd.Series, goal: int) -> pd.Series:
    return ((tokens - goal).abs() <= TOLERANCE * goal).fillna(False).astype(bool)


def left_out(runs: pd.DataFrame, asked: Asked) -> pd.Series:
    """Returns why each run is not compared; an empty text of those that are.

    Args:
        runs: What `load_runs` returned.
        asked: What to compare.

    Raises:
        NothingToCompare: If no run can be compared.
    """
    values = runs[asked.metric] if asked.metric in runs.columns else pd.Series(math.nan, index=runs.index)
    axis = pd.to_numeric(runs[asked.axis], errors="coerce")
    reasons = pd.Series("", index=runs.index, dtype="str")
    done = runs["state"] == State.COMPLETED
    failed = runs["state"] == State.FAILED
    diverged = (failed & runs["error"].str.startswith(DIVERGED).fillna(False)) | (done & values.abs().eq(math.inf))
    reasons[~(axis > 0)] = f"no {asked.axis} above 0"
    reasons[done & runs["tokens"].isna()] = "no count of tokens"
    reasons[done & values.isna()] = f"no value of {asked.metric}"
    reasons[failed] = "failed"
    reasons[~done & ~failed] = "not finished"
    reasons[diverged] = "diverged"
    ready = reasons == ""
    if not ready.any():
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.value_counts().items())
        raise NothingToCompare(
            f"finished runs with a value of {asked.metric} are needed, but of {len(runs)} there is none ({counts}); "
            "`python -m analysis.summarize` shows their states"
        )
    goal = budget(runs[ready], asked)
    other = ready & ~_near(runs["tokens"], goal)
    reasons[other] = runs.loc[other, "tokens"].map(lambda tokens: f"other budget: {tokens:,} tokens").astype("str")
    if (reasons != "").all():
        raise NothingToCompare(
            f"runs of {goal:,} tokens are needed, but there are runs of "
            f"{', '.join(f'{tokens:,}' for tokens in sorted(runs.loc[ready, 'tokens'].unique()))} alone"
        )
    return reasons


def check_comparable(runs: pd.DataFrame, asked: Asked) -> None:
    """Checks that runs differ in nothing that makes their losses incomparable, and that the axis has several values.

    Args:
        runs: Those that are compared.
        asked: What to compare.

    Raises:
        NothingToCompare: If they do, or it has not.
    """
    for column in varying_parameters(runs):
        known = runs[runs[column].notna()]
        if column.split(".")[0] in SAME and column not in (asked.by, asked.axis) and known[column].nunique() > 1:
            if follows(known, column, asked.by):
                continue
            values = ", ".join(map(str, known[column].unique()))
            raise NothingToCompare(
                f"runs that are compared must have the same model, data and loss, but {column} is {values}; give "
                f"folders or sweeps where it has one value, or --by {column}"
            )
    if runs[asked.axis].nunique() < 2:
        value = runs[asked.axis].iloc[0]
        name = short_names([asked.axis])[asked.axis]
        raise NothingToCompare(
            f"at least two values of {asked.axis} are needed, but all {len(runs)} comparable runs have {value:g}; "
            f"sweep {name}, or give another key by --axis: {_varying(runs)}"
        )


def lines_of(runs: pd.DataFrame, labels: Sequence[str], reasons: pd.Series) -> list[str]:
    """Returns a line for each run that is left out, those of one reason together."""
    pairs = [(reason, f"{label}: {reason}") for label, reason in zip(labels, reasons, strict=True) if reason]
    return [line for _, line in sorted(pairs, key=lambda pair: pair[0])]
