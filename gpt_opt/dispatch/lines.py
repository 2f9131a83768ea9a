"""How many runs share a task line: disBatch takes a second for each line, more than many a run trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gpt_opt.records.sweep_dir import SweepRun

MOST_LINE_S = 60.0
"""Seconds that the runs of a line may take together: what a slot has begun no other one can take over."""


def line_length(
    waiting: Sequence[SweepRun], slots: int, together: int, run_s: Callable[[SweepRun], float | None]
) -> int:
    """Returns how many of the runs that wait, from the first one on, the next line gets.

    Half of what waits is shared out among the slots at a time (guided self-scheduling; Polychronopoulos and Kuck 1987,
    https://doi.org/10.1109/TC.1987.5009495): lines get shorter towards the end, where slots have to end together. A run
    of which no time is known, or a longer one than `MOST_LINE_S`, has a line of its own.

    Args:
        waiting: The runs, in order; at least one.
        slots: Lines at a time.
        together: Runs at a time within a line.
        run_s: Says how many seconds a run takes; None where that is not known.
    """
    most = max(together, math.ceil(len(waiting) / (2 * slots)))
    length, taken_s = 0, 0.0
    for run in waiting[: math.ceil(most / together) * together]:
        seconds = run_s(run)
        if length >= together and (seconds is None or taken_s + seconds > MOST_LINE_S * together):
            break
        length, taken_s = length + 1, taken_s + (math.inf if seconds is None else seconds)
    return length
