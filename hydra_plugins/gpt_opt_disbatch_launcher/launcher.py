"""The launcher: points to a sweep directory, a driver over it, and what came of every point."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from hydra.conf import ConfigSourceInfo

    from gpt_opt.app.app import App
    from gpt_opt.dispatch.submit import Request
    from gpt_opt.dispatch.sweep_status import SweepStatus
    from gpt_opt.errors import Problem
    from gpt_opt.records.state import State
    from gpt_opt.records.sweep_dir import Sweep, SweepRun

# Hydra imports this module at every start, of every run: what is of use to a launch alone is imported there.

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_OWN_KEYS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode")


class DisBatchLauncher(Launcher):
    """Works through the points of a multirun with disBatch: in the Slurm allocation it is in, or on this machine.

    It blocks until all is done and shows a line whenever the counts of states change. Run directories, and what is
    skipped or resumed, are those of a multirun without a launcher.

    Args:
        slots: As `config.DisBatchLauncherConf`, like the others.
        gpus_per_run: GPUs of one run.
        runs_per_gpu: Runs that share one GPU.
        cpus_per_run: CPU cores of one run.
    """

    def __init__(
        self, slots: int | None, gpus_per_run: int | None, runs_per_gpu: int | None, cpus_per_run: int | None
    ) -> None:
        self._slots = slots
        self._resources = {"gpus_per_run": gpus_per_run, "runs_per_gpu": runs_per_gpu, "cpus_per_run": cpus_per_run}
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra hands every launcher; of it the config alone is needed, for runs are processes."""
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the points to their ends.

        Returns:
            What came of every point. Each that failed holds one and the same RunFailed, which names all that did.

        Raises:
            ConfigError: If the command line asks for what the runs would not get; nothing was started then.
        """
        from gpt_opt.dispatch.driver import drive
        from gpt_opt.dispatch.submit import prepare_points
        from gpt_opt.dispatch.sweep_status import gather
        from gpt_opt.errors import ConfigError, RunFailed
        from gpt_opt.records.job_id import this_job
        from gpt_opt.records.run_dir import path_part

        assert self._config is not None, "Hydra calls setup first"
        app = _app_of(self._config)
        if problems := [*self._wrong_keys(), *_refused(self._config, app)]:
            raise ConfigError(problems, ", nothing was started")
        assert app is not None, "without one it is refused"
        in_job = this_job().is_slurm
        name = path_part(self._config.get("exp_name") or "multirun")
        sweep, runs = prepare_points(self._request(app, in_job), name, job_overrides)
        error = None
        try:
            with _counts_shown(sweep), _quiet("gpt_opt.dispatch.driver"):
                drive(sweep, in_job)
        except RunFailed as failure:
            error = failure
        status = gather(sweep, ask_slurm=False)
        if error is not None:
            error = RunFailed("\n".join([str(error), *_failed_lines(status)]))
        done = {item.run for item in status.runs if item.what.is_done}
        return [
            _job_return(self._config, overrides, run, run in done, error)
            for overrides, run in zip(job_overrides, runs, strict=True)
        ]

    def _wrong_keys(self) -> Iterator[Problem]:
        from gpt_opt.errors import Problem
        from gpt_opt.sweep.model import Resources, settings

        for name, (kind, doc, _) in settings(Resources).items():
            value = self._resources.get(name)
            if value is not None and not kind.accepts(value):
                yield Problem(f"hydra.launcher.{name}", f"({doc}) must be {kind.expects}, but is {value!r}")
        if self._slots is not None and self._slots < 1:
            yield Problem("hydra.launcher.slots", f"must be at least 1, but is {self._slots}")

    def _request(self, app: App, in_job: bool) -> Request:
        from gpt_opt.dispatch.submit import Request

        backend, slots = ("disbatch", None) if in_job else ("local", self._slots)
        return Request(None, (), backend, slots, self._resources, app, Path("sweeps"))


def _app_of(config: DictConfig) -> App | None:
    """Returns the application whose configs a multirun is of; None where nothing says how it is started."""
    from gpt_opt.app.settings import find_settings
    from gpt_opt.app.toml_app import app_of
    from gpt_opt.own_app.app import own_app

    own = own_app()
    if _is_of(config, own):
        return own
    settings = find_settings(Path.cwd())
    return None if settings is None else app_of(settings)


def _sources(config: DictConfig) -> set[str]:
    """Returns the folders that the config of a multirun comes from, without those that its own config names."""
    own = (item for item in config.hydra.runtime.config_sources if item.provider != "hydra.searchpath in main")
    return {folder for source in own if (folder := _folder(source))}


def _folder(source: ConfigSourceInfo) -> str | None:
    """Returns the folder of a source of configs; None of one without, and of what Hydra and its plugins bring."""
    if source.schema == "pkg" and source.provider == "main":  # of an application that an installed command starts
        found = find_spec(source.path)
        return None if found is None else next(iter(found.submodule_search_locations or ()), None)
    return source.path if source.schema == "file" else None


def _is_of(config: DictConfig, app: App) -> bool:
    """Returns whether a multirun is composed from the configs of an application, and from nothing else."""
    folders = set() if app.config_dir is None else {str(app.config_dir)}
    return config.hydra.job.config_name == app.config_name and _sources(config) == folders


def _refused(config: DictConfig, app: App | None) -> Iterator[Problem]:
    """Yields what a multirun may ask for but the runs of a sweep, each a process of its own, would not do."""
    from gpt_opt.errors import Problem

    fix = "leave it out, or leave out hydra/launcher=disbatch"
    for text in config.hydra.overrides.hydra:
        key = text.lstrip("+~").partition("=")[0]
        if not any(key == own or key.startswith(f"{own}.") for own in _OWN_KEYS):
            yield Problem(key, "does not reach the runs of hydra/launcher=disbatch, which are started one by one", fix)
    if app is None or not _is_of(config, app):
        message = "must be the project's own for hydra/launcher=disbatch, "
        message += f"but it is {', '.join(sorted(_sources(config))) or 'in no folder'}"
        fix = "leave out --config-path, --config-dir and --config-name"
        if app is None:
            fix += "; of a project of your own, `gptopt init` writes the gptopt.toml that says how its runs are started"
        yield Problem("config folder", message, fix)
    elif app.planned_apart and not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        message = "must be Hydra's basic one for hydra/launcher=disbatch, which does not know what a run returns"
        yield Problem("hydra/sweeper", message, "leave it out")


@contextmanager
def _counts_shown(sweep: Sweep) -> Iterator[None]:
    """Shows a line for every change of the counts while the block works; the last one is shown after it."""
    from gpt_opt.dispatch.sweep_status import gather

    over = threading.Event()

    def show() -> None:
        status: SweepStatus | None = None
        shown: dict[State, int] | None = None
        ended = False
        while not ended:
            ended = over.wait(_LOOK_S if status is not None else 0)
            status = gather(sweep, ask_slurm=False, before=status)
            if status.counts != shown:
                shown = status.counts
                counts = ", ".join(f"{number} {state}" for state, number in shown.items() if number)
                log.info("%s: %s", sweep.label, counts)

    watcher = threading.Thread(target=show, name="counts", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a logger from saying less than warnings: the driver's own counts would double ours."""
    logger = logging.getLogger(name)
    former = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(former)


def _failed_lines(status: SweepStatus) -> Iterator[str]:
    """Yields a line for every run that is not COMPLETED: what is its own, and why."""
    from gpt_opt.records.attempts import CAUSES
    from gpt_opt.sweep.varying import common_and_varying, parameters

    _, varying = common_and_varying([item.run.overrides for item in status.runs])
    for item in status.runs:
        if not item.what.is_done:
            values = parameters(item.run.overrides)
            own = " ".join(f"{key}={values[key]}" for key in varying if key in values)
            why = item.message or (CAUSES[item.cause].message if item.cause is not None else "")
            line = f"  run {item.run.index}{f' ({own})' if own else ''}: {item.state}"
            yield f"{line}: {why}" if why else line


def _job_return(
    config: DictConfig, overrides: Sequence[str], run: SweepRun, done: bool, error: Exception | None
) -> JobReturn:
    from gpt_opt.records.io import read_json_object
    from gpt_opt.run.objective import objective

    learns = not config.hydra.sweeper._target_.endswith(".BasicSweeper")
    value = objective(read_json_object(run.paths().config), run.paths()) if done and learns else None
    return JobReturn(
        overrides=list(overrides),
        working_dir=os.getcwd(),
        task_name=config.hydra.job.name,
        status=JobStatus.COMPLETED if done else JobStatus.FAILED,
        _return_value=value if done else error,
    )
