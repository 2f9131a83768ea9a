"""The verb `export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gpt_opt.cli.arguments import FILE
from gpt_opt.config.nested import value_at
from gpt_opt.errors import ConfigError, Problem

_TEXTS = ("model.name", "data.dataset.name", "loss.name", "optimizer.optimizer_params.name")
_GROUPS = ("training.training_params", "training.finetuning")
"""What of a config says what a model is and how it was trained; each config of a run has them."""


@click.command()
@click.argument(
    "run", nargs=-1, required=True, metavar="RUN", help="Directory or id of a run, SWEEP INDEX, or a checkpoint."
)
@click.option(
    "-o", "--output", "--into", "into", type=FILE, metavar="FOLDER", help="New folder to write (default: RUN/export)."
)
def export(run: tuple[str, ...], into: Path | None) -> None:
    """Writes the model of a run for use elsewhere.

    A folder that transformers' from_pretrained opens, with tokenizer and model card; adapters are merged in.
    """
    from gpt_opt.cli.run_arguments import one_run
    from gpt_opt.records.io import read_json_object

    paths, checkpoint = one_run(run)
    try:
        config = read_json_object(paths.config)
    except ValueError as error:
        problem = f"must be the run's config, but cannot be read: {error}"
        raise ConfigError([Problem(str(paths.config), problem)]) from error
    _require_config_of_run(config, paths.config)
    from gpt_opt.training.models.export import export_run

    target = into or paths.root / "export"
    export_run(paths, config, checkpoint, target)
    print(target)


def _require_config_of_run(config: Mapping[str, Any], file: Path) -> None:
    """Checks that a config has what an export reads.

    Raises:
        ConfigError: If it has not.
    """
    from gpt_opt.app.settings import find_settings

    wrong = [key for key in _TEXTS if not isinstance(value_at(config, key), str)]
    wrong += [key for key in _GROUPS if not isinstance(value_at(config, key), dict)]
    if wrong and find_settings(file.parent) is not None:
        fix = "it is for gpt-opt's own training; what the program saved is in the run directory"
        raise ConfigError([Problem("gptopt export", f"must be given a run of it, but {file.parent} is another's", fix)])
    if wrong:
        problem = f"must be the config of a run, but has no {', '.join(wrong)} as a run writes it"
        raise ConfigError([Problem(str(file), problem, "name the run directory that `gptopt status` shows")])
