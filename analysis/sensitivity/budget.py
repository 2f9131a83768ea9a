"""Which runs can be compared: finished, with a value of the metric, after the same number of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analysis.answers.fates import fates
from analysis.parameters import follows, format_value, run_labels, short_names, varying_parameters, varying_text
from gpt_opt.errors import GptOptError

BY = "optimizer.optimizer_params.name"
AXIS = "optimizer.optimizer_params.lr"

TOLERANCE = 0.01
"""Fraction by which the tokens of two runs may differ: texts of other losses than lm are not all of one length."""

SAME = ("model", "data", "loss")
"""Groups of the config that must not differ between the runs of a comparison."""


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
    """Returns why each run of a `load_runs` frame is not compared; an empty text of those that are.

    Raises:
        GptOptError: If no run can be compared.
    """
    axis = pd.to_numeric(runs[asked.axis], errors="coerce")
    reasons = pd.Series("", index=runs.index, dtype="str")
    fate = fates(runs, asked.metric)
    reasons[~(axis > 0)] = f"no {asked.axis} above 0"
    reasons[fate.isin(["counted", "missing"]) & runs["tokens"].isna()] = "no count of tokens"
    reasons[fate == "missing"] = f"no value of {asked.metric}"
    reasons[fate == "failed"] = "failed"
    reasons[fate == "unfinished"] = "not finished"
    reasons[fate == "diverged"] = "diverged"
    ready = reasons == ""
    if not ready.any():
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.value_counts().items())
        raise GptOptError(
            f"finished runs with a value of {asked.metric} are needed, but of {len(runs)} there is none ({counts}); "
            "`python -m analysis.summarize` shows their states"
        )
    goal = budget(runs[ready], asked)
    other = ready & ~_near(runs["tokens"], goal)
    reasons[other] = runs.loc[other, "tokens"].map(lambda tokens: f"other budget: {tokens:,} tokens").astype("str")
    if (reasons != "").all():
        raise GptOptError(
            f"runs of {goal:,} tokens are needed, but there are runs of "
            f"{', '.join(f'{tokens:,}' for tokens in sorted(runs.loc[ready, 'tokens'].unique()))} alone"
        )
    return reasons


def check_comparable(runs: pd.DataFrame, asked: Asked) -> None:
    """Checks that compared runs differ in nothing that makes losses incomparable, and that the axis has several values.

    Raises:
        GptOptError: If they do, or it has not.
    """
    for column in varying_parameters(runs):
        tuned = column.split(".")[0] not in SAME or column in (asked.by, asked.axis)
        if not tuned and not follows(runs, column, asked.by):
            values = ", ".join(map(format_value, runs[column].unique()))
            raise GptOptError(
                f"runs that are compared must have the same model, data and loss, but {column} is {values}; give "
                f"folders or sweeps where it has one value, or --by {column}"
            )
    if runs[asked.axis].nunique() < 2:
        value = format_value(runs[asked.axis].iloc[0])
        name = short_names([asked.axis])[asked.axis]
        raise GptOptError(
            f"at least two values of {asked.axis} above 0 are needed, but all {len(runs)} comparable runs have "
            f"{value}; sweep {name}, or give another key by --axis: {varying_text(runs)}"
        )


def lines_of(runs: pd.DataFrame, reasons: pd.Series) -> list[str]:
    """Returns a line for each run that is left out, those of one reason together."""
    pairs = sorted(zip(run_labels(runs), reasons, strict=True), key=lambda pair: pair[1])
    return [f"{label}: {reason}" for label, reason in pairs if reason]
