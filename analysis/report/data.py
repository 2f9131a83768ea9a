"""The JSON document in a report: what its script filters, sorts and draws."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.report.contents import Contents
from analysis.report.curves import pack_all
from analysis.report.runs import ReportedRun
from analysis.report.texts import plain, signed
from gpt_opt.records.metrics import EVALUATION, MOST_SHOWN, SHOWN, metric_label, own_metrics

_MAIN = ("loss", "eval/loss")
_COUNTS = ("step", "total_steps", "time_s", "tokens", "peak_memory_mb")

_MOST_TRACEBACK = 4_000
"""Characters of a traceback, from its end."""

_TRACEBACKS_A_GROUP = 3
"""Runs of each group of failures whose tracebacks a report has."""


def document(contents: Contents, every_s: float | None) -> dict[str, Any]:
    """Returns the document; `every_s` is that of `analysis.report.page`."""
    source = contents.source
    with_traceback = {place for _, places in contents.failures for place in places[:_TRACEBACKS_A_GROUP]}
    curves = _curves(contents)
    return {
        "title": source.title,
        "written": time.time(),
        "is_over": source.is_over,
        "every_s": None if source.is_over else every_s,
        "metric": contents.metric,
        "shown": [*SHOWN, *own_metrics(contents.metrics)[:MOST_SHOWN]],
        "best": contents.best,
        "metrics": {
            name: {"label": metric_label(name), "unit": i.unit, "form": i.form, "better": i.greater_is_better}
            for name, i in contents.metrics.items()
        },
        "keys": [asdict(key) for key in contents.keys],
        "constant": {key: contents.texts.value(value) for key, value in contents.constant.items()},
        "signs": {state: signed(state) for state in dict.fromkeys(run.state for run in contents.runs)},
        "stages": [] if source.status is None else [stage["name"] for stage in source.status["stages"]],
        "runs": [
            _run(contents, run, place in with_traceback) | {"curves": curves[place]}
            for place, run in enumerate(contents.runs)
        ],
    }


def _curves(contents: Contents) -> list[dict[str, Any]]:
    paths = [contents.value(run, "path") for run in contents.runs]
    main = [contents.metric, contents.metric.removeprefix(EVALUATION), *_MAIN]
    return pack_all(contents.rows, paths, list(contents.metrics), main)


def _run(contents: Contents, run: ReportedRun, with_traceback: bool) -> dict[str, Any]:
    texts, program = contents.texts, contents.program
    config = {key: texts.value(contents.value(run, key)) for key in contents.differing}
    final = {name: _number(contents.value(run, name)) for name in contents.metrics}
    found = {
        "name": run.name,
        "id": run.run_id,
        "state": run.state,
        "stage": run.stage,
        "parent": run.parent,
        "path": texts.path(run.root),
        "values": [texts.value(contents.value(run, key.key)) for key in contents.keys],
        "config": {key: value for key, value in config.items() if value is not None},
        "final": {name: value for name, value in final.items() if value is not None},
        "seconds": round(run.cost.seconds, 1) or None,
        "attempts": run.cost.attempts or None,
        "message": texts.text(run.message or str(plain(contents.value(run, "reason")) or "")),
        "traceback": texts.text(run.traceback[-_MOST_TRACEBACK:]) if with_traceback else "",
        "node": run.node,
        "gpus": ",".join(run.gpus),
        "slurm": run.slurm_job,
        "command": None if run.overrides is None or program is None else shlex.join([*program, *run.overrides]),
        **{name: plain(contents.value(run, name)) for name in _COUNTS},
    }
    return {name: value for name, value in found.items() if value not in ("", None, {}, [])}


def _number(value: Any) -> float | str | None:
    """Returns a metric with six digits; a text where it is infinite, for JSON has no such number."""
    if value is None or value is pd.NA or math.isnan(value):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)
