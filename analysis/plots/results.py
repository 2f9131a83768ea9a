"""What came out of each setting, as figures of final values need it; what has no value is counted, not dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis.answers import Setting, find_metric, settings, usual_metric
from analysis.answers.settings import settings_by
from analysis.parameters import find_column, hashable, varying_parameters, varying_text
from analysis.plots.style import NothingToPlot, failed_note, metric_title, present, text_note
from gpt_opt.errors import counted
from gpt_opt.records.metrics import greater_is_better

FAR = 10.0
"""A value further from the better three quarters than this many times their range would flatten them."""

MANY = 5
"""Settings from which such values are cut off."""


@dataclass(frozen=True)
class Results:
    """The settings of a sweep and what is shown of them.

    Attributes:
        metric: Its name.
        greater: Whether greater values are better; None of a metric without a direction.
        keys: The config keys that tell settings apart, those of most interest first.
        settings: With a mean, or with runs that diverged.
        left_out: Runs that enter no mean, by the reason.
    """

    metric: str
    greater: bool | None
    keys: tuple[str, ...]
    settings: tuple[Setting, ...]
    left_out: dict[str, int]

    @property
    def title(self) -> str:
        """The metric with its unit."""
        return f"{metric_title(self.metric)} at the end"

    @property
    def best(self) -> Setting | None:
        """The setting with the best mean; None where neither way is better."""
        known = [item for item in self.settings if item.n and not item.diverged]
        if self.greater is None or not known:
            return None
        return max(known, key=lambda item: item.mean if self.greater else -item.mean)

    def worst_first(self) -> list[Setting]:
        """Returns the settings in the order in which they are drawn, so that the best lie on top."""
        sign = -1.0 if self.greater is False else 1.0
        return sorted(self.settings, key=lambda item: sign * item.mean if item.n else -math.inf)

    def limits(self) -> tuple[float, float]:
        """Returns the least and the greatest mean that is shown; what is far off on the worse side is not."""
        sign = -1.0 if self.greater else 1.0
        values = sorted(sign * item.mean for item in self.settings if item.n)
        if not values:
            return 0.0, 1.0
        better = float(np.quantile(values, 0.75, method="lower"))
        reach = better + FAR * (better - values[0])
        cut = self.greater is not None and len(values) >= MANY
        end = max(value for value in values if value <= reach) if cut else values[-1]
        low, high = sorted((sign * values[0], sign * end))
        room = 0.0 if low < high else 0.02 * abs(low) or 1.0
        return low - room, high + room

    def notes(self) -> list[Line2D]:
        """Returns what stands below the panels: how many runs are not in them, and why."""
        notes = []
        if number := sum(item.diverged for item in self.settings):
            notes.append(failed_note(number, "diverged"))
        if self.left_out:
            counts = ", ".join(f"{count} {name}" for name, count in self.left_out.items())
            notes.append(text_note(f"not shown: {counted(sum(self.left_out.values()), 'run')} ({counts})"))
        return notes


def results_of(runs: pd.DataFrame, metric: str | None, over: str | None, first: Sequence[str] = ()) -> Results:
    """Returns the results of runs.

    Args:
        runs: What `load_runs` returned, or some of its rows.
        metric: Its name or the end of it; None for what they are usually compared by.
        over: The config key over which a setting is averaged, usually `seed`; None to take each run alone.
        first: Config keys, or the ends of them, that come first among those that tell settings apart: all that vary.

    Raises:
        NothingToPlot: If no run has a final value.
        RequestError: If the runs have no such metric.
        GptOptError: If they have no such config key.
    """
    name = usual_metric(runs) if metric is None else find_metric(runs, metric)
    asked = [find_column(runs, key) for key in first]
    keys = [key for key in dict.fromkeys([*asked, *settings_by(runs, None, over or "")]) if key != over]
    found = settings(runs, name, keys, over or "path")
    counts = {
        "failed": sum(item.failed for item in found),
        "not finished": sum(item.unfinished for item in found),
        "without a value": sum(item.missing for item in found),
    }
    left_out = {reason: count for reason, count in counts.items() if count}
    if not any(item.n for item in found):
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "there are no runs"
        raise NothingToPlot(
            f"a finished run with a value of {name} is needed, but there is none ({why}); {present(runs)}"
        )
    shown = tuple(item for item in found if item.n or item.diverged)
    return Results(name, greater_is_better(name), tuple(keys), shown, left_out)


def varies(runs: pd.DataFrame, key: str) -> bool:
    """Returns whether a config key has several values."""
    return bool(hashable(runs[key]).nunique(dropna=False) > 1)


def require_keys(runs: pd.DataFrame, keys: Sequence[str], number: int, over: str | None) -> None:
    """Checks that enough parameters vary.

    Raises:
        NothingToPlot: If not; it says what does.
    """
    if len(keys) < number:
        need = f"{number} config keys that vary are" if number > 1 else "a config key that varies is"
        beside = f" beside {over}" if over in varying_parameters(runs) else ""
        raise NothingToPlot(
            f"{need} needed{beside}, but {varying_text(runs)} ({counted(len(runs), 'run')}); sweep one more"
        )
