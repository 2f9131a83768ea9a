"""Rows of metrics.jsonl sent to trackers as well: tensorboard, wandb, mlflow, each imported only when it is asked for.

The name of a metric, and the step, are those of metrics.jsonl. A resumed run continues its own run in the tracker.
Rows of steps that a resume takes back are hidden by tensorboard; wandb and mlflow, which cannot delete, show both.
What a tracker gets is rows and config, never the environment. One that fails is left alone with one warning.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt_opt.config.explain import flat_values
from gpt_opt.errors import ConfigError, Problem

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
        sweep: Name of the sweep that the run belongs to, or None.
        config: The resolved config.
    """

    id: str
    name: str
    root: Path
    sweep: str | None
    config: Mapping[str, Any]

    @property
    def params(self) -> Mapping[str, Any]:
        """The config's `logging.logging_params`."""
        params: Mapping[str, Any] = self.config["logging"]["logging_params"]
        return params


class Tracker(Protocol):
    """Where rows go."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes one row of metrics."""

    def close(self, completed: bool) -> None:
        """Ends the reporting of this attempt; `completed` says whether the run came to its end."""


class _Tensorboard:
    """Event files; the writer is made at the first row, whose step says from where on older rows do not count."""

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.params["logging_dir"]
        self._folder = run.root / "tensorboard" if folder is None else Path(folder, run.name)
        self._config, self._make = run.config, SummaryWriter
        self._writer: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = self._open(step, values)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _open(self, step: int, values: Mapping[str, float]) -> Any:
        from torch.utils.tensorboard.summary import hparams

        writer: Any = self._make(str(self._folder), purge_step=step)
        plain = {
            key: value if isinstance(value, bool | int | float) else str(value)
            for key, value in flat_values(self._config)
        }
        experiment, session, _ = hparams(plain, dict(values))
        for summary in (experiment, session):
            writer.file_writer.add_summary(summary)
        return writer

    def close(self, completed: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _Wandb:
    """A wandb run; `step` is a metric of ours, since wandb drops rows whose own step does not rise."""

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
                config=dict(flat_values(run.config)),
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
        here = self._run.settings.sync_dir
        log.info("wandb: %s", f"offline; wandb sync {here} uploads it" if self._run.offline else self._run.url)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self, completed: bool) -> None:
        self._run.finish(exit_code=0 if completed else 1)


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
        params = [Param(k, str(v)) for k, v in flat_values(run.config) if k not in mine.data.params]
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

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._id, [self._metric(name, value, now_ms, step) for name, value in values.items()])

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
        """Sends a row to every tracker that has not failed before."""
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(step, values)
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


def _warn(name: str, error: Exception) -> None:
    log.warning(
        "%s cannot be reported to any more, metrics.jsonl still has every row: %s: %s",
        name,
        type(error).__name__,
        error,
    )
