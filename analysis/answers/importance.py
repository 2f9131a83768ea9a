"""Which parameter matters: the share of the variance of a metric that each of those that vary explains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.answers.fates import fates
from analysis.answers.settings import OVER, settings_by
from analysis.parameters import group_key
from analysis.stats import ALPHA
from analysis.variance import Shares, variance_shares


def importance(runs: pd.DataFrame, metric: str, by: Sequence[str] | None = None, over: str = OVER) -> Shares | None:
    """Returns how the variance of a metric divides among the parameters that vary, and the seed.

    Args:
        runs: What `load_runs` returned, or some of its rows; those whose value counts are looked at.
        metric: The metric.
        by: The config keys; None for all that vary.
        over: The config key that runs of one setting differ in; it is one of the factors where it varies.

    Returns:
        `of_factor` maps config keys to shares, 0 to 1. None where fewer than three runs have a value, the values are
        equal, or nothing varies.
    """
    keys = [key for key in (*settings_by(runs, by, over), over) if key in runs.columns]
    counted = runs[fates(runs, metric) == "counted"]
    factors = {key: list(map(group_key, counted[key])) for key in keys}
    factors = {key: levels for key, levels in factors.items() if len(set(levels)) > 1}
    return variance_shares(counted[metric].tolist(), factors) if factors and len(counted) else None


def matters(shares: Shares, key: str) -> bool | None:
    """Returns whether a parameter explains more than chance would; None where nothing is left to tell by."""
    p = shares.p[key]
    return None if math.isnan(p) else p * len(shares.p) <= ALPHA
