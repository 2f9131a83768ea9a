"""The verb `import-config`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gpt_opt.cli.arguments import FILE, ROOT, require_file_in_folder
from gpt_opt.errors import ConfigError, Problem


@click.command("import-config")
@click.argument("file", type=FILE, help="The YAML.")
@click.option("--model-index", type=int, metavar="N", help="Take this one of its models alone, from 0.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="New file to write, hydra_conf/exp/NAME.yaml.")
def import_config(file: Path, model_index: int | None, output: Path | None) -> None:
    """Prints the experiment that a post-training YAML describes.

    Reads models, dataset, post_training, lora, training, ...; the experiment is the same training.
    """
    from gpt_opt.own_app.app import own_app
    from gpt_opt.own_app.import_config.experiment import import_config as read

    own_app().register()
    if output is not None and output.suffix != ".yaml":
        raise ConfigError([Problem("--output", f"must end in .yaml, but is {output}", f"write -o {output}.yaml")])
    if output is not None:
        require_file_in_folder(output)
        if output.exists():
            raise _taken(output)
    name = (file if output is None else output).stem
    found = read(file, name, ROOT / "hydra_conf", model_index)
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
