"""What became of each run, as far as a metric is concerned: its value counts, or why not."""

from __future__ import annotations

import math

import pandas as pd

from analysis.parameters import group_key
from gpt_opt.records.metrics import EVALUATION
from gpt_opt.records.state import State

DIVERGED = "LossNotFinite"
"""The error of a training whose loss is NaN or infinite, as state.json names it."""

LOSS = "loss.name"
"""Runs of one loss have the same metrics."""


def fates(runs: pd.DataFrame, metric: str) -> pd.Series:
    """Returns for each run whether its value counts, or why not: counted, unfinished, failed, diverged or missing."""
    values = runs[metric] if metric in runs.columns else pd.Series(math.nan, index=runs.index)
    done, failed = runs["state"] == State.COMPLETED, runs["state"] == State.FAILED
    found = pd.Series("unfinished", index=runs.index, dtype="str")
    found[failed] = "failed"
    found[failed & runs["error"].str.startswith(DIVERGED).fillna(False)] = "diverged"
    found[done] = "counted"
    found[done & values.isna()] = "missing"
    found[done & (values.abs().eq(math.inf) | _became_nan(runs, metric))] = "diverged"
    return found


def _became_nan(runs: pd.DataFrame, metric: str) -> pd.Series:
    """Returns which runs have been evaluated, but to NaN: others of their kind of loss have a value.

    JSON has no NaN; a summary has null for it, and so has a frame for what was not measured.
    """
    beside = [name for name in runs.columns if name.startswith(EVALUATION) and name != metric]
    if metric not in runs.columns or not metric.startswith(EVALUATION) or not beside:
        return pd.Series(False, index=runs.index)
    kind = runs[LOSS].map(group_key) if LOSS in runs.columns else pd.Series("", index=runs.index)
    measured = runs[metric].notna().groupby(kind, dropna=False).transform("any")
    return runs[metric].isna() & measured & runs[beside].notna().any(axis=1)
