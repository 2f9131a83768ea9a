"""The verb `export`."""

from __future__ import annotations

from pathlib import Path

import click

from gpt_opt.cli.arguments import FILE
from gpt_opt.errors import ConfigError, Problem


@click.command()
@click.argument("run_dir", type=FILE, metavar="RUN", help="A run directory, or one of its checkpoints.")
@click.option("--into", type=FILE, metavar="FOLDER", help="New folder to write (default: RUN/export).")
def export(run_dir: Path, into: Path | None) -> None:
    """Writes the model of a run for use elsewhere.

    A folder that transformers' from_pretrained opens, with tokenizer and model card; adapters are merged in.
    """
    from gpt_opt.records.io import read_json_object
    from gpt_opt.records.run_dir import run_of

    given = run_dir.resolve()
    paths = run_of(given)
    if paths is None:
        problem = f"must be a run directory or one of its checkpoints, but {str(run_dir)!r} is neither"
        fix = "take a folder below outputs/ that has a config.json and checkpoints/"
        raise ConfigError([Problem("RUN", problem, fix)])
    try:
        config = read_json_object(paths.config)
    except ValueError as error:
        problem = f"must be the run's config, but cannot be read: {error}"
        raise ConfigError([Problem(str(paths.config), problem)]) from error
    from gpt_opt.training.models.export import export_run

    target = into or paths.root / "export"
    export_run(paths, config, None if given == paths.root else given, target)
    print(target)
