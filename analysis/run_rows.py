"""One run directory as a row: what its config, state and result say, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.files import Problems, flatten, read_object, read_rows, take, text, whole
from analysis.parameters import is_of_training_app
from gpt_opt.records import state as states
from gpt_opt.records.io import number
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunRecord, State
from gpt_opt.records.step_log import NOT_METRICS

_ERROR_LENGTH = 200
_ID = re.compile(r"-([0-9a-f]{12})$")


@dataclass(frozen=True)
class RunRow:
    """One run before it becomes a row.

    Attributes:
        fixed: Values of `RUN_COLUMNS` and `SWEEP_COLUMNS` by name; times as ISO 8601.
        metrics: Final or latest values by metric name.
        config: Values by dotted key; empty where it is not known.
        problems: What is wrong with its files, a line each.
        settled: Whether its files alone tell all this, and are as they should be. What a running run is depends on its
            owner and the time as well.
        planned: Whether `config` has no more than what identifies the run.
    """

    fixed: dict[str, Any]
    metrics: dict[str, float | None] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    settled: bool = False
    planned: bool = False


def id_in_name(folder: str) -> str | None:
    """Returns the run id that ends the name of a run directory; a timestamped one has none."""
    found = _ID.search(folder)
    return found.group(1) if found else None


def _short_error(error: object) -> str | None:
    """Returns type and message of the exception that ended a run, on one line."""
    if error is None:
        return None
    parts = [error.get("type"), error.get("message")] if isinstance(error, dict) else [error]
    line = " ".join(": ".join(str(part) for part in parts if part).split())
    return line if len(line) <= _ERROR_LENGTH else line[: _ERROR_LENGTH - 1] + "…"


def _state_fields(paths: RunPaths, record: RunRecord, problems: Problems) -> tuple[dict[str, Any], bool]:
    """Returns the state of a run and what state.json says, and whether that needed no look at other processes."""
    file, known = record.file, {"run_id": id_in_name(paths.root.name), "state": str(record.state)}
    if record.problem:
        problems.found.append(" ".join(record.problem.split()))
        if not file.attempt:  # state.json is what cannot be read
            return known, False
    is_missing = file.attempt == 0 and not paths.state.exists()
    if is_missing and (paths.metrics.exists() or paths.summary.exists()):
        problems.add(paths.state, "is missing, although the run has results")
    fields = {
        **known,
        "run_id": text(file.run_id) or known["run_id"],
        "error": _short_error(file.error),
        **take(vars(file), ("step", "total_steps", "attempt"), whole, problems, paths.state),
        **take(vars(file), ("started", "updated"), text, problems, paths.state),
    }
    return fields, file.state is not State.RUNNING and not is_missing


def _last_metrics(paths: RunPaths, problems: Problems) -> dict[str, float | None]:
    """Returns the latest value of every metric of a run that has no summary yet."""
    rows = sorted(read_rows(paths.metrics, problems), key=lambda row: row["step"])
    latest = {name: value for row in rows for name, value in row.items() if value is not None}
    return {name: number(value) for name, value in latest.items() if name not in NOT_METRICS}


def _results(paths: RunPaths, record: RunRecord, problems: Problems) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Returns the fixed fields of a summary and the metrics; none and those so far when there is no summary."""
    summary: Mapping[str, Any] | None = record.summary
    if record.state is not State.COMPLETED:
        summary = None if problems.of(paths.summary) else read_object(paths.summary, problems)
    if summary is None:
        return {}, _last_metrics(paths, problems)
    metrics = summary.get("metrics")
    if not isinstance(metrics, dict):
        problems.add(paths.summary, f"metrics must be an object, but is {metrics!r:.60}")
        metrics = {}
    fixed = {
        **take(summary, ("time_s", "peak_memory_mb"), number, problems, paths.summary),
        **take(summary, ("tokens",), whole, problems, paths.summary),
    }
    return fixed, take(metrics, metrics, number, problems, paths.summary)


def read_run(folder: str) -> RunRow:
    """Reads a run directory, whatever its files hold."""
    paths, problems = RunPaths(Path(folder)), Problems()
    record = states.read_run(paths)
    state, settled = _state_fields(paths, record, problems)
    config = read_object(paths.config, problems)
    if config is None and not problems.of(paths.config):
        problems.add(paths.config, "is missing, so the parameters of the run are unknown")
    result, metrics = _results(paths, record, problems)
    fixed = {**state, **result, "path": folder}
    if problems.found:
        fixed["reason"] = "; ".join(line.removeprefix(f"{folder}/") for line in problems.found)
    known = {} if config is None else flatten(config)
    # The config of a run of another app has no more than what identifies it.
    planned = bool(known) and not is_of_training_app(known)
    return RunRow(fixed, metrics, known, tuple(problems.found), settled and not problems.found, planned)
