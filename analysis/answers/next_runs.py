"""What to run next: more seeds where settings cannot be told apart, values beyond an edge."""

from __future__ import annotations

import json

from analysis.answers.answer import Answer
from analysis.answers.settings import OVER, Setting
from analysis.next_sweeps import Member, other_values, with_seeds

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
    return sorted({seed for seed in setting.seeds if isinstance(seed, int) and not isinstance(seed, bool)})


def more_seeds(answer: Answer) -> list[Member]:
    """Returns more seeds for the best setting, and those that may be as good; those that exist are done already.

    Returns:
        Nothing where nothing needs telling apart, or it is not seeds that the settings are averaged over.

    Raises:
        GptOptError: If what the runs were started with cannot be read.
    """
    if answer.comparison is None or not can_add_seeds(answer):
        return []
    rivals = [pair for pair in answer.comparison.pairs if not pair.distinguishable][:RIVALS]
    if not rivals:
        return []
    chosen = [answer.comparison.best, *(pair.other for pair in rivals)]
    most = max(item.n for item in chosen)
    needed = max(most + 1, rivals[0].seeds or SEEDS)
    count = max(most + 1, min(needed, MOST_SEEDS))
    found: dict[str, Member] = {}
    for item in chosen:
        base, grid = with_seeds(item.folder, _seeds(item), count + item.diverged)
        # Once each base: what differs between settings need not come from what their runs were started with.
        found.setdefault(json.dumps(base, sort_keys=True), (base, grid))
    return list(found.values())


def extension(answer: Answer) -> list[Member]:
    """Returns the values beyond the edges at which the best setting lies; nothing where it does not.

    Raises:
        GptOptError: If what the best runs were started with cannot be read.
    """
    if answer.best is None:
        return []
    seeds = _seeds(answer.best) if answer.over == OVER else []
    return [other_values(answer.best.folder, edge.key, edge.further, seeds) for edge in answer.edges]
