"""Sweep files of what to run next: more seeds where settings cannot be told apart, values beyond an edge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.answers.answer import Answer
from analysis.answers.settings import OVER, Setting
from analysis.next_sweeps import Member, other_values, sweep_file, with_seeds

SEEDS = 3
"""Seeds that are asked for where settings have but one."""

MOST_SEEDS = 10
"""Seeds that are asked for at most."""

RIVALS = 3
"""Settings, beside the best, that get more seeds at most."""


def can_add_seeds(answer: Answer) -> bool:
    """Returns whether the settings are means over seeds alone, so that a sweep file can add some."""
    return answer.over == OVER and not answer.averaged


def _seeds(setting: Setting) -> list[int]:
    found = (block[0] for block in setting.samples)
    return sorted({seed for seed in found if isinstance(seed, int) and not isinstance(seed, bool)})


def more_seeds(
    answer: Answer, runs: pd.DataFrame, name: str, resources: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the sweep file that gives the best setting, and those that may be as good, more seeds.

    Runs that exist are in it too: they are done already.

    Returns:
        None where nothing needs telling apart, or it is not seeds that the settings are averaged over.

    Raises:
        GptOptError: If what the runs were started with cannot be read.
    """
    if answer.comparison is None or not can_add_seeds(answer):
        return None
    rivals = [pair for pair in answer.comparison.pairs if not pair.distinguishable][:RIVALS]
    if not rivals:
        return None
    chosen = [answer.comparison.best, *(pair.other for pair in rivals)]
    most = max(item.n for item in chosen)
    needed = max(most + 1, rivals[0].seeds or SEEDS)
    count = max(most + 1, min(needed, MOST_SEEDS))
    paths = dict(zip(runs["run_id"], runs["path"], strict=True))
    members = [with_seeds(paths[item.runs[0]], _seeds(item), count) for item in chosen]
    return sweep_file(name, _merged(members), answer.metric, answer.greater, resources)


def _merged(members: list[Member]) -> list[Member]:
    """Returns each base once: what differs between settings need not come from what their runs were started with."""
    found: dict[str, Member] = {}
    for base, grid in members:
        found.setdefault(json.dumps(base, sort_keys=True), (base, grid))
    return list(found.values())


def extension(
    answer: Answer, runs: pd.DataFrame, name: str, resources: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the sweep file that tries values beyond the edges at which the best setting lies; None where it does not.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    if answer.best is None:
        return None
    path = dict(zip(runs["run_id"], runs["path"], strict=True))[answer.best.runs[0]]
    members = [other_values(path, edge.key, edge.further, _seeds(answer.best)) for edge in answer.edges]
    return sweep_file(name, members, answer.metric, answer.greater, resources)
