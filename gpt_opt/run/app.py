"""What run_hydra.py does around Hydra: check the request first, run the task, turn errors into exit codes."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpt_opt.errors import GptOptError, Problem, RequestError, RunFailed
from gpt_opt.run.directory import DRY_RUN_PREFIX, plain_config
from gpt_opt.run.execute import execute
from gpt_opt.run.objective import objective
from gpt_opt.run.outputs import work_without_readers
from gpt_opt.run.paths import RunPaths

log = logging.getLogger(__name__)


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
    if plain["dry_run"]:
        _dry_run(plain, overrides, folder)
        return None
    files = {
        "config.yaml": OmegaConf.to_yaml(config),
        "overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
        "hydra.yaml": OmegaConf.to_yaml(HydraConfig.instance().cfg),
    }
    try:
        execute(plain, RunPaths(folder), files)
    except RequestError as error:
        if hydra.mode is not RunMode.MULTIRUN:
            raise
        raise RunFailed(str(error)) from error  # other points may have run: not a request that started nothing
    learns = hydra.mode is RunMode.MULTIRUN and not hydra.sweeper._target_.endswith(".BasicSweeper")
    return objective(plain, RunPaths(folder)) if learns else None


def _dry_run(config: dict[str, object], overrides: list[str], folder: Path) -> None:
    from gpt_opt.run.directory import expected_run_dir
    from gpt_opt.training.stages import describe

    try:
        directory = expected_run_dir(config, overrides) if "output_dir" in config["paths"] else "a new directory"  # type: ignore[operator]
        log.info("%s\n%-14s %s", describe(config), "run directory", directory)
    finally:
        # Only what the resolver made for this dry run; hydra.run.dir may name a folder of the user's.
        if folder.name.startswith(DRY_RUN_PREFIX) and folder.parent == Path(tempfile.gettempdir()):
            logging.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Turns what Hydra raises about a config into our own errors.

    Raises:
        GptOptError: The one that a resolver of ours raised inside Hydra, a RequestError with Hydra's words, or a
            RunFailed with submitit's.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, GptOptError):
                raise link from None
            link = link.__cause__ or link.__context__
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RequestError([Problem("config", "; ".join(lines))]) from error
    except Exception as error:
        # What hydra/launcher=submitit_* raises when a job ended without an answer; submitit itself is optional.
        if type(error).__module__.partition(".")[0] != "submitit":
            raise
        raise RunFailed(str(error)) from error
