"""What run_hydra.py does around Hydra: check the request first, run the task, turn errors into exit codes."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gpt_opt.run.directory import plain_config
from gpt_opt.run.execute import execute
from gpt_opt.run.paths import RunPaths

log = logging.getLogger(__name__)


def task(config: DictConfig) -> None:
    """Runs one composed config inside a Hydra job.

    Raises:
        GptOptError: As `gpt_opt.run.execute.execute`.
    """
    hydra = HydraConfig.get()
    plain = plain_config(config)
    logging.getLogger().setLevel(plain["logging"]["logging_params"]["log_level"].upper())
    folder = Path(hydra.runtime.output_dir)
    overrides = list(hydra.overrides.task)
    if plain["dry_run"]:
        _dry_run(plain, overrides, folder)
        return
    files = {
        "config.yaml": OmegaConf.to_yaml(config),
        "overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
        "hydra.yaml": OmegaConf.to_yaml(HydraConfig.instance().cfg),
    }
    execute(plain, RunPaths(folder), files)


def _dry_run(config: dict[str, object], overrides: list[str], folder: Path) -> None:
    from gpt_opt.run.directory import expected_run_dir
    from gpt_opt.training.stages import describe

    try:
        directory = expected_run_dir(config, overrides) if "output_dir" in config["paths"] else "a new directory"  # type: ignore[operator]
        log.info("%s\n%-14s %s", describe(config), "run directory", directory)
    finally:
        logging.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
