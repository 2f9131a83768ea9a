"""The panels of learning curves, and what runs of one setting have to draw in each."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.plots.style import metric_title
from analysis.plots.traces import Curve, Trace, curve_of, trace_of
from gpt_opt.records.metrics import greater_is_better, is_of_training, metric_info, own_metrics, split_of


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        metric: The evaluation metric.
        train: Its training counterpart, drawn thin behind it, or None.
        void_at_zero: A metric that is exactly 0 where this one says nothing, or None.
        log: Whether values that differ by orders of magnitude go on a logarithmic axis.
    """

    metric: str
    train: str | None = None
    void_at_zero: str | None = None
    log: bool = False

    @property
    def title(self) -> str:
        """What it shows, with its unit."""
        info = metric_info(self.metric)
        return info.label if self.train is not None and info is not None else metric_title(self.metric)


PANELS = (
    Panel("eval/loss", train="loss"),
    # Before training, policy and reference are equal: every pair is a tie, which counts as wrong.
    Panel("eval/rewards/accuracies", void_at_zero="eval/rewards/margins"),
    Panel("eval/rewards/margins"),
    Panel("eval/kl", log=True),
)


@dataclass(frozen=True)
class Lines:
    """The curves of runs that differ in the seed alone.

    Attributes:
        frames: The rows of each of them.
        failed: Whether each of them failed.
        smooth: Width of the smoothing.
    """

    frames: tuple[pd.DataFrame, ...]
    failed: tuple[bool, ...]
    smooth: float

    def curves(self, panel: Panel, train: bool) -> list[tuple[Curve, bool]]:
        """Returns the curves of the runs that have one, and whether each of them failed."""
        name, void = (panel.train, None) if train else (panel.metric, panel.void_at_zero)
        found = [(curve_of(frame, name, void), ended) for frame, ended in zip(self.frames, self.failed, strict=True)]
        return [(curve, ended) for curve, ended in found if curve is not None]

    def trace(self, panel: Panel, train: bool) -> Trace | None:
        """Returns the evaluation curve or the training curve."""
        found = self.curves(panel, train)
        return trace_of([curve for curve, _ in found], [ended for _, ended in found], self.smooth) if found else None

    def ends(self, panel: Panel) -> list[tuple[float, float]]:
        """Returns where the runs that failed ended."""
        failed = [frame for frame, ended in zip(self.frames, self.failed, strict=True) if ended]
        curves = (curve_of(frame, panel.metric, panel.void_at_zero) or curve_of(frame, panel.train) for frame in failed)
        return [(float(curve.x[-1]), float(curve.y[-1])) for curve in curves if curve is not None]

    def rank(self, panels: Sequence[Panel]) -> float | None:
        """Returns a number that is smaller for better settings, by the first panel; None without any curve."""
        if not any(self.curves(panel, train) for panel in panels for train in (False, True)):
            return None
        shown = self.trace(panels[0], False) or self.trace(panels[0], True)
        if shown is None:
            return math.inf
        return float(shown.line.y[-1]) * (-1 if greater_is_better(panels[0].metric) else 1)


_MOST_OWN = 6
"""Panels of metrics that are in no registry."""


def _own_panels(logged: Collection[str]) -> tuple[Panel, ...]:
    """Returns a panel for each evaluation, with what training has of it, and for what training alone has."""
    own = own_metrics(logged)
    of_training = {split_of(name)[1]: name for name in logged if is_of_training(name)}
    found = [Panel(name, train=of_training.get(split_of(name)[1])) for name in own if not is_of_training(name)]
    beside = {panel.train for panel in found}
    return (*found, *(Panel(name) for name in own if is_of_training(name) and name not in beside))[:_MOST_OWN]


def panels_of(metric: str | Sequence[str] | None, logged: Collection[str]) -> tuple[Panel, ...]:
    """Returns the panels of some metrics, or the usual ones.

    Args:
        metric: One or several; None for the usual ones.
        logged: The metrics that the runs have: where our evaluations are not among them, their own are usual.
    """
    if metric is None:
        own = () if any(panel.metric in logged for panel in PANELS) else _own_panels(logged)
        trained = {panel.train for panel in own}
        return (*own, *(panel for panel in PANELS if panel.train is None or panel.train not in trained))
    known = {panel.metric: panel for panel in PANELS}
    names = [metric] if isinstance(metric, str) else metric
    return tuple(known.get(name, Panel(name)) for name in names)
