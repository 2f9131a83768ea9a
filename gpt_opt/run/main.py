"""What run_hydra.py does around Hydra: check the request first, run the task, turn errors into exit codes."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpt_opt.config.files import located
from gpt_opt.config.schema import JOB_NAME, VERSION_BASE
from gpt_opt.errors import ConfigError, GptOptError, Problem, RequestError, RunFailed
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.run_id import run_id
from gpt_opt.run.execute import execute
from gpt_opt.run.objective import objective
from gpt_opt.run.outputs import work_without_readers
from gpt_opt.run.resolvers import DRY_RUN_PREFIX, RunFinder, plain_config

log = logging.getLogger(__name__)


def start(loader: ConfigLoader, job: Callable[[DictConfig], Any], overrides: Sequence[str], multirun: bool) -> Any:
    """Lets Hydra run what `hydra.main` would, which composes the config twice for it, and reads every file each time.

    Returns:
        What Hydra says of the run or of the sweep.

    Raises:
        Exception: What Hydra or `job` raises.
    """
    setbase(VERSION_BASE)
    mode = f"hydra.mode={'MULTIRUN' if multirun else 'RUN'}"
    hydra, known = Hydra(JOB_NAME, loader), GlobalHydra.instance()
    before, known.hydra = known.hydra, hydra
    try:
        return (hydra.multirun if multirun else hydra.run)("config", job, [*overrides, mode])
    finally:
        known.hydra = before


def show_help(loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Prints what Hydra does for `--help`; with a loader of its own it would copy every config again for each group."""
    setbase(VERSION_BASE)
    parser = get_args_parser()
    Hydra(JOB_NAME, loader).app_help("config", parser, parser.parse_args(list(arguments)))


def task(config: DictConfig) -> float | None:
    """Runs one composed config inside a Hydra job.

    Returns:
        The metric that the sweeper optimizes; None where it learns nothing from the runs, as Hydra's basic one.

    Raises:
        GptOptError: As `gpt_opt.run.execute.execute`.
    """
    work_without_readers()
    hydra = HydraConfig.get()
    plain = plain_config(config)
    logging.getLogger().setLevel(plain["logging"]["logging_params"]["log_level"].upper())
    folder = Path(hydra.runtime.output_dir)
    overrides = list(hydra.overrides.task)
    _drop_log_files(hydra.job.name)
    if plain["dry_run"]:
        _dry_run(plain, overrides, folder)
        return None
    files = {
        "config.yaml": OmegaConf.to_yaml(config),
        "overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
        "hydra.yaml": OmegaConf.to_yaml(HydraConfig.instance().cfg),
    }
    paths = RunPaths(folder)
    try:
        with _task_log(paths), nullcontext() if hydra.mode is RunMode.MULTIRUN else _errors_once():
            execute(plain, paths, files)
    except RequestError as error:
        if hydra.mode is not RunMode.MULTIRUN:
            raise
        raise RunFailed(str(error)) from error  # other points may have run: not a request that started nothing
    learns = hydra.mode is RunMode.MULTIRUN and not hydra.sweeper._target_.endswith(".BasicSweeper")
    return objective(plain, paths) if learns else None


def _drop_log_files(job: str) -> None:
    """Ends the <job>.log that hydra-colorlog and Hydra's default write, even in the current directory."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        # task.log holds the same
        if isinstance(handler, logging.FileHandler) and (log_file := Path(handler.baseFilename)).name == f"{job}.log":
            root.removeHandler(handler)
            handler.close()
            if log_file.is_file() and not log_file.stat().st_size:
                log_file.unlink()


@contextmanager
def _task_log(paths: RunPaths) -> Iterator[None]:
    """Writes what the run says to its task.log, whatever hydra/job_logging is."""
    root = logging.getLogger()
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "gpt_opt" and isinstance(logger, logging.Logger):
            logger.disabled = False  # as hydra/job_logging=disabled leaves them
    file = logging.FileHandler(paths.task_log, encoding="utf-8", errors="backslashreplace", delay=True)
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    root.addHandler(file)
    try:
        yield
    finally:
        root.removeHandler(file)
        file.close()


@contextmanager
def _errors_once() -> Iterator[None]:
    """Keeps from the terminal how the run failed where the error says it there, as it ends a process of one run."""

    def is_news(record: logging.LogRecord) -> bool:
        return not getattr(record, "also_raised", False)

    terminals = [item for item in logging.getLogger().handlers if not isinstance(item, logging.FileHandler)]
    for handler in terminals:
        handler.addFilter(is_news)
    try:
        yield
    finally:
        for handler in terminals:
            handler.removeFilter(is_news)


def _dry_run(config: dict[str, object], overrides: list[str], folder: Path) -> None:
    from gpt_opt.training.describe import describe

    try:
        directory, _ = RunFinder().find(config, run_id(config), overrides)
        log.info("%s\n%-14s %s", describe(located(config)), "run directory", directory)
    finally:
        # Only what the resolver made for this dry run; hydra.run.dir may name a folder of the user's.
        if folder.name.startswith(DRY_RUN_PREFIX) and folder.parent == Path(tempfile.gettempdir()):
            logging.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def require_weights(points: Sequence[tuple[Mapping[str, Any], Sequence[str]]]) -> None:
    """Refuses weights of `model.archive` that do not fit their model, before there is a directory of the run.

    Args:
        points: Resolved config and overrides of every run that was asked for; of those that have a directory already
            the weights did fit.

    Raises:
        ConfigError: If any do not; all of them are named.
    """
    problems: dict[Problem, None] = {}
    models: list[Any] = []
    for config, overrides in points:
        model = config["model"]
        if model.get("archive") in (None, "embedded") or model in models:
            continue
        models.append(model)
        if RunFinder().find(config, run_id(config), overrides)[1]:
            continue
        from gpt_opt.training.models.build import require_archive  # torch, which the run needs anyway

        try:
            require_archive(located(config)["model"])
        except RequestError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems), ", nothing was started")


def _value_or_error(job: JobReturn) -> Any:
    """Returns what a job of Hydra returned, or raises its error: as Hydra, but without a report of its own."""
    if job.status is JobStatus.COMPLETED:
        return job._return_value
    raise job._return_value


@contextmanager
def hydra_errors(explain: Callable[[], Sequence[Problem]] = tuple) -> Iterator[None]:
    """Turns what Hydra raises about a config into our own errors.

    Args:
        explain: Returns what is wrong with the config, asked only when something is raised.

    Raises:
        GptOptError: The one that a resolver of ours raised inside Hydra, a RequestError with Hydra's words, or a
            RunFailed with submitit's.
    """
    JobReturn.return_value = JobReturn.return_value.getter(_value_or_error)  # type: ignore[method-assign, attr-defined]
    try:
        yield
    except GptOptError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError, yaml.YAMLError) as error:
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, GptOptError):
                raise link from None
            link = link.__cause__ or link.__context__
        if problems := explain():
            raise RequestError(problems) from None
        if not isinstance(error, HydraException | OmegaConfBaseException):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RequestError([Problem("config", "; ".join(lines))]) from error
    except Exception as error:
        # What hydra/launcher=submitit_* raises when a job ended without a result; submitit itself is optional.
        if type(error).__module__.partition(".")[0] != "submitit":
            raise
        raise RunFailed(str(error)) from error
