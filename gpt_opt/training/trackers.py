"""Rows of metrics.jsonl sent to trackers as well: tensorboard, wandb, mlflow, each imported only when it is asked for.

The name of a metric, and the step, are those of metrics.jsonl. A resumed run continues its own run in the tracker: each
attempt reports all of metrics.jsonl, the rows of earlier attempts first. tensorboard replaces what it had; wandb and
mlflow, which cannot delete, are sent what they do not have yet, so that no row is there twice.
What a tracker gets is rows and config, never the environment. One that fails is left alone with one warning.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt_opt.config.nested import flat_values
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.records.step_log import read_metrics

log = logging.getLogger(__name__)

PROJECT = "gpt-opt"
"""Project, or experiment, of runs for which neither config nor environment name one."""

_START_S = 20
"""Longest wait for wandb's server at the start: a run and its GPU wait with it."""

_REQUEST_S = 10
"""Longest wait for an answer of mlflow's server, where the environment says nothing else."""

_RETRIES = 2
"""Retries of a request to it, likewise; with the waits between them a dead server costs half a minute."""

_FINISH_S = 20
"""Longest wait for uploads at the end, below the 30 s that schedulers leave between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Tracked:
    """A run as trackers are told of it.

    Attributes:
        id: Equal for all attempts at one result, different for the next one after `rerun=true`.
        name: What people read.
        root: The run directory.
        metrics: metrics.jsonl.
        sweep: Name of the sweep that the run belongs to, or None.
        config: The resolved config.
    """

    id: str
    name: str
    root: Path
    metrics: Path
    sweep: str | None
    config: Mapping[str, Any]

    @property
    def params(self) -> Mapping[str, Any]:
        """The config's `logging.logging_params`."""
        params: Mapping[str, Any] = self.config["logging"]["logging_params"]
        return params


@dataclass(frozen=True)
class Row:
    """A row of metrics.jsonl.

    Attributes:
        number: Its index in the file, from 0.
        step: Optimizer steps before it.
        time: When it was written, seconds since 1970.
        values: The metrics.
    """

    number: int
    step: int
    time: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """Where rows go."""

    def log(self, rows: Sequence[Row]) -> None:
        """Takes rows of metrics, each once and in order; those of earlier attempts come with the first one of this."""

    def close(self, completed: bool) -> None:
        """Ends the reporting of this attempt; `completed` says whether the run came to its end."""


class _Tensorboard:
    """Event files; the writer is made at the first row: from its step on the rows of older files do not count."""

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.params["logging_dir"]
        self._folder = run.root / "tensorboard" if folder is None else Path(folder, run.name)
        self._config, self._make = run.config, SummaryWriter
        self._writer: Any = None

    def log(self, rows: Sequence[Row]) -> None:
        if self._writer is None:
            self._writer = self._open(rows[0].step, rows[-1].values)
        for row in rows:
            for name, value in row.values.items():
                self._writer.add_scalar(name, value, row.step, row.time)
        self._writer.flush()

    def _open(self, step: int, values: Mapping[str, float]) -> Any:
        from torch.utils.tensorboard.summary import hparams

        writer: Any = self._make(str(self._folder), purge_step=step)
        plain = {
            key: value if isinstance(value, bool | int | float) else str(value)
            for key, value in flat_values(self._config).items()
        }
        experiment, session, _ = hparams(plain, dict(values))
        for summary in (experiment, session):
            writer.file_writer.add_summary(summary)
        return writer

    def close(self, completed: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _Wandb:
    """A wandb run; `step` is a metric of ours, wandb's own step is the number of the row.

    An online run says how many rows the server has. Offline each attempt makes a record of its own, a folder, and what
    uploads one appends its rows to those of the server, whatever their steps. So a record holds every row that is in no
    uploaded one, and those that it replaces are marked as uploaded: each row is in one record that `wandb sync` takes.
    """

    def __init__(self, run: Tracked) -> None:
        import wandb

        params = run.params["wandb"]
        try:
            self._run = wandb.init(
                id=run.id,
                resume="allow",
                name=run.name,
                dir=str(run.root),
                project=params["project"] or os.environ.get("WANDB_PROJECT", PROJECT),
                entity=params["entity"],
                group=params["group"] or run.sweep,
                mode=params["mode"],
                tags=params["tags"] or None,
                config=flat_values(run.config),
                reinit="create_new",
                settings=wandb.Settings(
                    console="off",
                    disable_code=True,
                    disable_git=True,
                    silent=True,
                    init_timeout=_START_S,
                    finish_timeout=_FINISH_S,
                ),
            )
        except wandb.errors.UsageError as error:
            raise _unusable("wandb", error) from error
        self._run.define_metric("*", step_metric="step")
        here = Path(self._run.settings.sync_dir)
        log.info("wandb: %s", f"offline; wandb sync {here} uploads it" if self._run.offline else self._run.url)
        others = [record for record in here.parent.glob(f"*run-*/run-{run.id}.wandb") if record.parent != here]
        self._count, self._replaced = here / _ROWS, [record for record in others if not _is_uploaded(record)]
        uploaded = [_rows_in(record.parent) for record in others if _is_uploaded(record)]
        self._first = max(uploaded, default=0) if self._run.offline else self._run.starting_step

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows[max(self._first - rows[0].number, 0) :]:
            self._run.log({"step": row.step, "_timestamp": row.time, **row.values}, step=row.number, commit=True)
        if self._count.parent.is_dir():  # with mode=disabled there is no record
            self._count.write_text(str(rows[-1].number + 1))
        for record in self._replaced:
            (record.parent / _ROWS).unlink(missing_ok=True)
            record.with_suffix(_UPLOADED).touch()
        self._replaced = []

    def close(self, completed: bool) -> None:
        self._run.finish(exit_code=0 if completed else 1)


_ROWS = "gpt-opt-rows"
"""File in the folder of a record: how many rows of metrics.jsonl are in it and in uploaded ones before it."""

_UPLOADED = ".wandb.synced"
"""Ending of the file beside a record that `wandb sync` makes, and skips such records for."""


def _is_uploaded(record: Path) -> bool:
    return not record.parent.name.startswith("offline-") or record.with_suffix(_UPLOADED).exists()


def _rows_in(folder: Path) -> int:
    try:
        return int((folder / _ROWS).read_text())
    except (OSError, ValueError):
        return 0


class _Mlflow:
    """An mlflow run, found again by a tag."""

    def __init__(self, run: Tracked) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_REQUEST_S))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(_RETRIES))
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'", max_results=1)
        tags = {_TAG: run.id} | ({"sweep": run.sweep} if run.sweep else {})
        mine = found[0] if found else self._client.create_run(experiment, run_name=run.name, tags=tags)
        self._id = mine.info.run_id
        if found:
            self._client.update_run(self._id, status="RUNNING")
        histories = {name: self._client.get_metric_history(self._id, name) for name in mine.data.metrics}
        self._known = {(name, metric.step) for name, history in histories.items() for metric in history}
        params = [Param(k, str(v)) for k, v in flat_values(run.config).items() if k not in mine.data.params]
        for start in range(0, len(params), 100):  # the most that a request may hold
            self._client.log_batch(self._id, params=params[start : start + 100])

    def _experiment(self, name: str) -> str:
        from mlflow import MlflowException

        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return self._client.create_experiment(name)
            except MlflowException:  # another run of the sweep may have been faster
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)

    def log(self, rows: Sequence[Row]) -> None:
        metrics = [
            self._metric(name, value, int(row.time * 1000), row.step)
            for row in rows
            for name, value in row.values.items()
            if (name, row.step) not in self._known
        ]
        for start in range(0, len(metrics), 1000):  # the most that a request may hold
            self._client.log_batch(self._id, metrics[start : start + 1000])

    def close(self, completed: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if completed else "KILLED")


_BUILDERS: dict[str, Callable[[Tracked], Tracker]] = {
    "tensorboard": _Tensorboard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
}
_WHERE = "logging.logging_params.report_to"
_TAG = "gpt-opt.run"


def _unusable(name: str, error: Exception) -> ConfigError:
    return ConfigError([Problem(_WHERE, f"{name} must be usable as configured, but says: {error}")])


class Reporters:
    """The trackers of one attempt at a run.

    Raises:
        ConfigError: If a tracker's library cannot be imported, or refuses how it is configured. One that cannot be
            reached is left out with a warning: a run does not depend on its trackers.
    """

    def __init__(self, run: Tracked) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._metrics, self._number = run.metrics, 0
        for name in dict.fromkeys(run.params["report_to"]):
            try:
                self._trackers[name] = _BUILDERS[name](run)
            except ImportError as error:
                raise _unusable(name, error) from error
            except ConfigError:
                raise
            except Exception as error:
                _warn(name, error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the row that has just been written to every tracker that has not failed before."""
        rows = [] if self._number or not self._trackers else _earlier_rows(self._metrics)
        self._number += len(rows) + 1
        rows.append(Row(self._number - 1, step, time.time(), values))
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(rows)
            except Exception as error:
                del self._trackers[name]
                _warn(name, error)

    def close(self, completed: bool) -> None:
        """Ends the reporting of this attempt."""
        for name, tracker in self._trackers.items():
            try:
                tracker.close(completed)
            except Exception as error:
                _warn(name, error)
        self._trackers.clear()


def _earlier_rows(metrics: Path) -> list[Row]:
    """Returns the rows of a file before the last one."""
    rows = []
    for number, row in enumerate(read_metrics(metrics).records[:-1]):
        step, written = row.pop("step"), row.pop("time")
        values = {name: math.nan if value is None else value for name, value in row.items()}
        rows.append(Row(number, step, written, values))
    return rows


def _warn(name: str, error: Exception) -> None:
    log.warning(
        "%s cannot be reported to any more, metrics.jsonl still has every row: %s: %s",
        name,
        type(error).__name__,
        error,
    )
