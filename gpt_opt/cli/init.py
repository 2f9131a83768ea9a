"""The verb `init`."""

from __future__ import annotations

from pathlib import Path

import click

from gpt_opt.cli.arguments import FILE, ROOT
from gpt_opt.errors import ConfigError, Problem


@click.command()
@click.argument("script", type=FILE, required=False, help="The script; by default the one that trains by its looks.")
@click.option("--command", metavar="WORDS", help='For a program of its own kind: "python t.py --lr {lr}".')
@click.option("--print", "only_print", is_flag=True, help="Print the files in place of writing them.")
def init(script: Path | None, command: str | None, only_print: bool) -> None:
    """Writes a gptopt.toml for the application in this folder.

    It parses the Python files, and imports none: scripts with @hydra.main first, or the argparse of SCRIPT.
    """
    from gpt_opt.app.init import initial
    from gpt_opt.sweep.overrides import shell_word

    if script is not None and command is not None:
        raise ConfigError([Problem("gptopt init", "takes SCRIPT or --command, but got both", "leave one of them out")])
    if Path.cwd() == ROOT:
        fix = "change into the repository of another application, or submit a sweep file of this one: params/"
        raise ConfigError([Problem(str(ROOT), "must be another application than gpt-opt's own training", fix)])
    found = initial(Path.cwd(), script, command)
    if only_print:
        print("\n".join(f"# {name}\n\n{text}" for name, text in found.files.items()), end="")
        return
    _write(found.files)
    print(*found.found, sep="\n")
    print(f"wrote {' and '.join(found.files)}. Next:")
    print("  gptopt doctor")
    print(f"  echo {shell_word(found.sweep)} > first.json && gptopt plan first.json" if found.sweep else _PLAN)


_PLAN = """  gptopt plan FILE, a sweep file such as {"KEY": [VALUE, VALUE]}"""


def _write(files: dict[str, str]) -> None:
    from gpt_opt.records.io import create_text

    if taken := [name for name in files if Path(name).exists()]:
        fix = "gptopt init --print shows what it would write; delete it to have it written anew"
        raise ConfigError([Problem(name, "must be a new file, but exists", fix) for name in taken])
    for name, text in files.items():
        create_text(Path(name), text)
