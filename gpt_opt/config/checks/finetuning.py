"""What must hold between the keys of training.finetuning; pure functions of plain containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.config.checks.losses import metrics_of
from gpt_opt.config.suggest import checkpoint_of_run
from gpt_opt.errors import Problem
from gpt_opt.records.metrics import EVALUATION, KnownMetrics, comparable, did_you_mean, greater_is_better
from gpt_opt.records.run_reference import RunReference

DEFAULT_METRIC = "eval/loss"

_KEYS = "training.finetuning"


def is_greater_better(keys: Mapping[str, Any]) -> bool:
    """Returns the direction of the metric that training.finetuning names, or of the default one."""
    given = keys["greater_is_better"]
    return bool(greater_is_better(keys["metric_for_best_model"] or DEFAULT_METRIC) if given is None else given)


def finetuning_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks the keys of training.finetuning, one by one and against each other."""
    keys = config["training"]["finetuning"]
    yield from _choice(keys, metrics_of(config))
    patience = keys["early_stopping_patience"]
    if patience is not None and patience < 1:
        yield Problem(f"{_KEYS}.early_stopping_patience", f"must be at least 1 evaluation, but is {patience}")
    start = keys["resume_from_checkpoint"]
    is_reference = RunReference.parse(start) is not None or str(start).startswith(
        "best:"
    )  # whoever plans says whether there is such a run
    if start is not None and not is_reference and not (Path(start) / "trainer_state.json").is_file():
        yield Problem(
            f"{_KEYS}.resume_from_checkpoint",
            f"must be a folder checkpoint-<step> of a run, but {start!r} has no trainer_state.json",
            checkpoint_of_run(f"{_KEYS}.resume_from_checkpoint", Path(start))
            or "leave it null to resume this run; to start from weights alone, set model.archive or model.name_or_path",
        )


def _choice(keys: Mapping[str, Any], known: KnownMetrics) -> Iterator[Problem]:
    metric, greater = keys["metric_for_best_model"], keys["greater_is_better"]
    if not keys["load_best_model_at_end"] and keys["early_stopping_patience"] is None:
        for key in ("metric_for_best_model", "greater_is_better"):
            if keys[key] is not None:
                problem = f"is {keys[key]}, but it is ignored"
                fix = f"set {_KEYS}.load_best_model_at_end=true or early_stopping_patience, or leave it null"
                yield Problem(f"{_KEYS}.{key}", problem, fix)
        return
    if metric is not None and not metric.startswith(EVALUATION):
        problem = f"must be a metric of the evaluation as in metrics.jsonl, eval/loss for example, but is {metric!r}"
        yield Problem(f"{_KEYS}.metric_for_best_model", problem)
    elif metric is not None and known.complete and metric not in known.names:
        evaluated = (name for name in known.names if name.startswith(EVALUATION))
        problem = f"must be a metric that this training has, but is {metric!r}"
        yield Problem(f"{_KEYS}.metric_for_best_model", problem, did_you_mean(metric, evaluated))
    elif greater is None and greater_is_better(metric or DEFAULT_METRIC) is None:
        directed = ", ".join(comparable())
        problem = f"must be given for {metric!r}; it is known only for {directed}"
        yield Problem(f"{_KEYS}.greater_is_better", problem, "set it to true or false")
