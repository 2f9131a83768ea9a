"""Which evaluation of a training was the best one, and how many have come since."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from gpt_opt.config.checks.finetuning import DEFAULT_METRIC, is_greater_better
from gpt_opt.errors import ConfigError, Problem

log = logging.getLogger(__name__)


class Best:
    """The best evaluation so far.

    Args:
        metric: By which evaluations are compared.
        greater: Whether more of it is better.
        patience: Evaluations without a better one after which training ends; None never ends it.
        keeps: Whether the checkpoint of the best evaluation is kept, as the final one.

    Attributes:
        step: Optimizer steps before the best evaluation; None before the first.
        metrics: What it measured, by flat name.
        since: Evaluations after it.
    """

    def __init__(self, metric: str, greater: bool, patience: int | None, keeps: bool) -> None:
        self.metric, self.keeps = metric, keeps
        self._greater, self._patience = greater, patience
        self.step: int | None = None
        self.metrics: dict[str, float] = {}
        self.since = 0

    def require_metric(self, metrics: Mapping[str, float]) -> None:
        """Checks that an evaluation has what evaluations are compared by.

        Raises:
            ConfigError: If it has not.
        """
        if self.metric not in metrics:
            problem = f"must be one of {', '.join(sorted(metrics))}, but is {self.metric!r}"
            raise ConfigError([Problem("training.finetuning.metric_for_best_model", problem)])

    def see(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Takes note of an evaluation; returns whether it is the best so far. An equal one is not better."""
        value = metrics[self.metric]
        former = None if self.step is None else self.metrics[self.metric]
        if former is None or math.isnan(former) or (value > former if self._greater else value < former):
            self.step, self.metrics, self.since = step, dict(metrics), 0
            return True
        self.since += 1
        if self.over:
            log.info(
                "no evaluation in %d was better than the one after step %s, %s=%g: training ends after step %d",
                self.since,
                self.step,
                self.metric,
                former,
                step,
            )
        return False

    @property
    def over(self) -> bool:
        """Whether training is to end."""
        return self._patience is not None and self.since >= self._patience

    def state(self) -> dict[str, Any]:
        """Returns what `load` takes, as JSON values."""
        return {"step": self.step, "metrics": self.metrics, "since": self.since}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state` returned."""
        self.step, self.metrics, self.since = state["step"], dict(state["metrics"]), state["since"]

    def forget(self) -> None:
        """Starts anew, as when the checkpoint of the best evaluation is missing."""
        self.step, self.metrics, self.since = None, {}, 0


def best_of(finetuning: Mapping[str, Any]) -> Best | None:
    """Builds what `training.finetuning` asks for, or None where evaluations are not compared."""
    keeps, patience = finetuning["load_best_model_at_end"], finetuning["early_stopping_patience"]
    if not keeps and patience is None:
        return None
    metric = finetuning["metric_for_best_model"] or DEFAULT_METRIC
    return Best(metric, is_greater_better(finetuning), patience, keeps)
