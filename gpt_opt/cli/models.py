"""The verb `merge`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gpt_opt.errors import ConfigError, Problem


def add_verbs(verbs: Any) -> None:
    """Adds the verb to the subparsers `verbs`."""
    text = "write the model of a run with its adapters merged into the base, with tokenizer, in Hugging Face format"
    merge = verbs.add_parser("merge", help=text, description=text[0].upper() + text[1:] + ".")
    merge.add_argument("run_dir", type=Path, metavar="RUN", help="a run directory, or one of its checkpoints")
    merge.add_argument("--into", type=Path, metavar="FOLDER", help="new folder to write (default: RUN/merged)")
    merge.set_defaults(run=_merge, parser=merge)


def _merge(options: argparse.Namespace) -> None:
    from gpt_opt.records.io import read_json_object
    from gpt_opt.records.run_dir import run_of

    given = options.run_dir.resolve()
    paths = run_of(given)
    if paths is None:
        problem = f"must be a run directory or one of its checkpoints, but {str(options.run_dir)!r} is neither"
        fix = "take a folder below outputs/ that has a config.json and checkpoints/"
        raise ConfigError([Problem("RUN", problem, fix)])
    try:
        config = read_json_object(paths.config)
    except ValueError as error:
        problem = f"must be the run's config, but cannot be read: {error}"
        raise ConfigError([Problem(str(paths.config), problem)]) from error
    from gpt_opt.training.models.merge import merge_adapters

    into = options.into or paths.root / "merged"
    merge_adapters(config, paths.checkpoints if given == paths.root else given, into)
    print(into)
