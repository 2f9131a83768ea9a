"""The verb `import-config`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from gpt_opt.cli.plan import ROOT, fill_registries
from gpt_opt.errors import ConfigError, Problem


def add_verbs(verbs: Any) -> None:
    """Adds the verb to the subparsers `verbs`."""
    text = "read a post-training YAML (models, dataset, post_training, lora, training, ...) and print the experiment"
    verb = verbs.add_parser(
        "import-config", help=text, description=f"{text[0].upper()}{text[1:]} that is the same training."
    )
    verb.add_argument("file", type=Path, help="the YAML")
    verb.add_argument("--model-index", type=int, metavar="N", help="take this one of its models alone, from 0")
    verb.add_argument("-o", "--output", type=Path, metavar="FILE", help="new file to write, hydra_conf/exp/NAME.yaml")
    verb.set_defaults(run=_import, parser=verb)


def _import(options: argparse.Namespace) -> None:
    from gpt_opt.plan.import_config import import_config

    fill_registries()
    output: Path | None = options.output
    if output is not None and output.suffix != ".yaml":
        raise ConfigError([Problem("--output", f"must end in .yaml, but is {output}", f"write -o {output}.yaml")])
    if output is not None and not output.parent.is_dir():
        raise ConfigError([Problem("--output", f"must be in a folder that exists, but {output.parent} does not")])
    if output is not None and output.exists():
        raise _taken(output)
    name = (options.file if output is None else output).stem
    found = import_config(options.file, name, ROOT / "hydra_conf", options.model_index)
    if output is None:
        print(found.text, end="")
    else:
        try:
            with output.open("x", encoding="utf-8") as stream:
                stream.write(found.text)
        except FileExistsError as error:
            raise _taken(output) from error
    for title, lines in (
        ("no equal here, left out", found.without_equal),
        ("interpreted", found.interpreted),
        ("needed on this machine before it runs", found.to_do),
    ):
        if lines:
            print(f"{title}:", *(f"  - {line}" for line in lines), sep="\n", file=sys.stderr)
    if output is not None:
        print(f"wrote {output}: python run_hydra.py +exp={name}", file=sys.stderr)


def _taken(output: Path) -> ConfigError:
    return ConfigError([Problem("--output", f"must be a new file, but {output} exists", "delete it, or name another")])
