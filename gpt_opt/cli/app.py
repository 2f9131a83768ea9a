"""The command `gptopt` as a whole. The only place that knows every verb; errors become exit codes here."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import sys
from collections.abc import Sequence

import click

from gpt_opt.cli import (
    clean,
    collect,
    doctor,
    export,
    import_config,
    init,
    plan,
    prepare,
    report,
    results,
    submit,
    sweep,
)
from gpt_opt.config.suggest import SYNONYMS, suggestion
from gpt_opt.errors import exit_code, say

_COMPLETE = "_GPTOPT_COMPLETE"
"""Environment variable by which a shell asks for completions."""


_COMPLETION = """
The Tab key completes verbs, options, sweeps and runs after this line, which can stand in ~/.bashrc (zsh: zsh_source):

\b
eval "$(_GPTOPT_COMPLETE=bash_source gptopt)"
"""


class _Verbs(click.Group):
    """The verbs, listed in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the verbs."""
        return list(self.commands)


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[
        init.init,
        *(plan.plan, submit.submit, submit.drive, submit.execute),
        *(sweep.status, sweep.logs, sweep.retry, sweep.cancel),
        *(results.results, results.diff, report.report, collect.collect),
        *(prepare.prepare, doctor.doctor, export.export, clean.clean, import_config.import_config),
    ],
    subcommand_metavar="VERB ...",
    options_metavar="",
    epilog=_COMPLETION,
)
def _gptopt() -> None:
    """Sweeps of language-model training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `gptopt`.

    Returns:
        The exit code: 0 fine, 1 a run failed, 2 the request was wrong, 3 a sweep still runs, 130 it was
        interrupted, 141 the reader of the output ended first.
    """
    return exit_code(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int | None:
    if instruction := os.environ.get(_COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(_gptopt, {}, "gptopt", _COMPLETE, instruction)
    try:
        # Not click's own main: it has other words for errors, and other exit codes for Ctrl-C and a closed reader.
        with _gptopt.make_context("gptopt", list(arguments)) as context:
            code: int | None = _gptopt.invoke(context)
        return code
    except click.exceptions.Exit as end:  # --help
        return end.exit_code
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            say(error.format_message())
        elif error.ctx is None:
            say(f"gptopt: error: {_message(error, arguments)}")
        else:
            say(f"{error.ctx.get_usage()}\n{error.ctx.command_path}: error: {_message(error, arguments)}")
        return 2


def _message(error: click.UsageError, arguments: Sequence[str]) -> str:
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        name = error.option_name
        given, *rest = [*itertools.dropwhile(lambda item: item.partition("=")[0] != name, arguments)] or [name]
        hint = _hint(error.ctx.command, given, rest[0] if rest else "")
        message = f"unknown: {given}; {hint}see {error.ctx.command_path} --help"
    elif isinstance(error, click.exceptions.NoSuchCommand):
        message += f" The verbs are {', '.join(_gptopt.commands)}."
    return message.replace("\n", "\\n")


def _hint(verb: click.Command, unknown: str, after: str) -> str:
    """Returns the option of the verb, or the override, that an unknown argument, with the one after it, means."""
    flag, sign, value = unknown.partition("=")
    if not sign and not re.match(r"-\D|.*=|.*\.json$", after):
        value = after
    options = [name for item in verb.params for name in item.opts]
    key = SYNONYMS.get(flag.lstrip("-").replace("-", "_"), flag)
    same = "--" + key.rpartition(".")[2].replace("_", "-")
    if close := [same] if same in options else difflib.get_close_matches(flag, options, n=1, cutoff=0.75):
        return f"did you mean {close[0]}? "
    keys = [target for target in SYNONYMS.values() if "=" not in target and not target.startswith(("+", "-"))]
    takes_overrides = any(item.name == "overrides" and item.nargs == -1 for item in verb.params)
    meant = suggestion(flag, keys, value or None) if takes_overrides else ""
    return f"as an override {meant}; " if meant.startswith("write") else ""
