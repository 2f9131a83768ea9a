"""Arguments that several verbs take, and what a shell completes them to."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from gpt_opt.errors import ConfigError, GptOptError, Problem, exit_code

Verb = TypeVar("Verb", bound=Callable[..., Any])

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

SWEEPS = Path("sweeps")
"""Where sweep directories lie, relative to the working directory."""

FILE = click.Path(path_type=Path)
"""The type of an argument that is a file; the verb itself says what is wrong with it."""


def require_file_in_folder(output: Path) -> None:
    """Checks where a verb is to write a file.

    Raises:
        ConfigError: If it is a folder, or in none that exists.
    """
    if output.is_dir():
        fix = f"name a file in it: -o {output / 'NAME'}"
        raise ConfigError([Problem("--output", f"must be a file, but {output} is a folder", fix)])
    if not output.parent.is_dir():
        how = "is a file" if output.parent.exists() else "does not"
        raise ConfigError([Problem("--output", f"must be in a folder that exists, but {output.parent} {how}")])


class _BackendName(click.ParamType[str]):
    """The name of a backend; the table of backends, which takes a tenth of a second, is imported when one is asked."""

    name = "backend"

    @property
    def _choice(self) -> click.Choice[str]:
        from gpt_opt.dispatch.backends.base import BACKENDS

        return click.Choice(tuple(BACKENDS))

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name; refuses one that is not in the table."""
        return self._choice.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Returns all names, for the help of the option."""
        return self._choice.get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Returns the names that begin so."""
        return self._choice.shell_complete(ctx, param, incomplete)


BACKEND = _BackendName()


def at_least(least: int) -> Callable[[click.Context, click.Parameter, int | None], int | None]:
    """Returns the callback of an option whose number, where it is given, must be at least so large."""

    def checked(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
        if value is not None and value < least:
            raise click.BadParameter(f"must be at least {least}, but is {value}")
        return value

    return checked


def complete_sweep(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Returns the sweeps below the working directory, by name and by number; for a path, directories."""
    from gpt_opt.records.sweep_dir import numbers, submitted_names

    names: list[str] = []
    for folder in submitted_names(SWEEPS):
        names += [folder.name, *(f"{folder.name}/{number}" for number in numbers(folder))]
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]


def complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Returns the indexes of the runs of the sweep that stands before, each with its overrides."""
    return [item for item in _indexes(context.params.get("sweep")) if item.value.startswith(incomplete)]


def complete_named_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Returns the indexes of the runs of the last sweep that stands before; sweeps where none begins like this."""
    indexes = next(filter(None, map(_indexes, reversed(context.params.get("runs") or ()))), [])
    found = [item for item in indexes if item.value.startswith(incomplete)]
    return found or complete_sweep(context, parameter, incomplete)


def complete_file(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Has the shell complete files, for an argument that may be something else as well."""
    return [CompletionItem(incomplete, type="file")]


def _indexes(sweep: str | None) -> list[CompletionItem]:
    from gpt_opt.records.sweep_dir import find

    try:
        runs = find(sweep, SWEEPS).runs
    except (GptOptError, OSError):
        return []
    return [CompletionItem(run.name, help=" ".join(run.overrides).replace("\n", " ")) for run in runs]


SWEEP_FILE = click.argument("file", type=FILE, help="The sweep file, for example params/beta_sweep.json.")
OVERRIDES = click.argument("overrides", nargs=-1, help="Hydra overrides for every point, applied last: seed=1.")
SWEEP = click.argument("sweep", help="A sweep: its name, name/number, or directory.", shell_complete=complete_sweep)
SWEEP_OR_DIR = click.argument(
    "where",
    required=False,
    metavar="SWEEP_OR_DIR",
    help="A sweep (name, name/number, directory) or a folder of runs; by default the last sweep submitted.",
    shell_complete=complete_sweep,
)


def run_or(without: str) -> Callable[[Verb], Verb]:
    """Returns the argument that names a run of the sweep before it, and says what is meant without it."""
    text = f"Index, STAGE/INDEX or id of a run; without it, {without}."
    return click.argument("run", required=False, help=text, shell_complete=complete_run)


JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def errors_are_2(verb: Callable[..., int | None]) -> Callable[..., int]:
    """Makes 2 the exit code of all errors of a verb that answers about runs, 1 being one of its answers."""

    @functools.wraps(verb)
    def run(**asked: Any) -> int:
        return exit_code(lambda: verb(**asked), failed=2)

    return run


def agrees(verb: str, question: str) -> bool:
    """Asks before something is done that cannot be undone.

    Raises:
        GptOptError: If there is no terminal to ask at.
    """
    if not sys.stdin.isatty():
        raise GptOptError(f"{verb} asks first, but there is no terminal to ask at; add --yes")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False
