"""What a sweeper that learns from its runs (`hydra/sweeper=optuna`) optimizes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from gpt_opt.config.checks.finetuning import DEFAULT_METRIC, is_greater_better
from gpt_opt.errors import RunFailed
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.summary import read_summary

log = logging.getLogger(__name__)


def objective(config: Mapping[str, Any], paths: RunPaths) -> float:
    """Returns the metric of a completed run that says how good it is, that of training.finetuning or eval/loss.

    A value that is no number (a diverged run) is the worst one, so that a study goes on.

    Raises:
        RunFailed: If the run has no such metric.
    """
    finetuning = config["training"]["finetuning"]
    name = finetuning["metric_for_best_model"] or DEFAULT_METRIC
    metrics = read_summary(paths)["metrics"]
    if name not in metrics:
        raise RunFailed(f"{paths.root}: the sweep's metric must be one of {', '.join(sorted(metrics))}, but is {name}")
    if metrics[name] is None:
        worst = -math.inf if is_greater_better(finetuning) else math.inf
        log.warning("%s is no number after this run, which counts as %s", name, worst)
        return worst
    return float(metrics[name])
