"""The best run of a sweep, which a config names `best:SWEEP`."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from gpt_opt.errors import Problem, RequestError
from gpt_opt.records.choices import best_of
from gpt_opt.records.metrics import metric_text
from gpt_opt.records.run_dir import RunFolders
from gpt_opt.records.run_reference import RunReference
from gpt_opt.records.state import State, read_run
from gpt_opt.records.sweep_dir import find

log = logging.getLogger(__name__)

BEST = "best:"
"""What the name of a sweep follows in a config that starts from its best run."""

SWEEPS = Path("sweeps")
"""Where sweep directories lie, relative to the working directory."""


def best_run(key: str, value: str) -> RunReference:
    """Returns the run of a sweep, of its last stage where it has several, that is best by the sweep's metric.

    Args:
        key: The config key that asks for it, for the error.
        value: `best:SWEEP`, a sweep as `gptopt status` takes it.

    Raises:
        RequestError: If there is no such sweep, it has no metric, or no run of it is COMPLETED with that metric.
    """
    try:
        sweep = find(value.removeprefix(BEST), SWEEPS)
    except RequestError as error:
        raise RequestError([Problem(key, item.message, item.fix) for item in error.problems]) from error
    submission, folders = sweep.submission(), RunFolders()
    if (metric := submission.metric) is None:
        fix = 'add "metric": {"name": "eval/loss", "goal": "minimize"} to it and submit it again; or name a run'
        raise RequestError(
            [Problem(key, f"must name a sweep whose file has a metric, but {sweep.label} has none", fix)]
        )
    last = submission.stages[-1].name if submission.stages else ""
    paths = {run.index: run.paths(folders) for run in sweep.runs if run.stage == last}
    best = best_of(((i, item) for i, item in paths.items() if read_run(item).state is State.COMPLETED), metric)
    if best is None:
        problem = f"must name a sweep with a COMPLETED run that has {metric['name']}, but {sweep.label} has none"
        raise RequestError([Problem(key, problem, f"gptopt status {sweep.label} says how it stands")])
    run = next(run for run in sweep.runs if run.index == best[0])
    _say(key, f"the best of {sweep.label} is {run.name} ({run.run_id})", metric["name"], best[1])
    return RunReference(run.run_id)


@lru_cache(maxsize=64)  # a config is composed several times until its run starts
def _say(key: str, text: str, metric: str, value: float) -> None:
    log.info("%s: %s, %s=%s", key, text, metric, metric_text(metric, value))
