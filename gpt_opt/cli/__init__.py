"""The command `gptopt`. The only package that knows every stage; errors become exit codes here."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn

from gpt_opt.cli import import_config, models, plan
from gpt_opt.cli import sweep as dispatch
from gpt_opt.config.suggest import SYNONYMS, suggestion
from gpt_opt.errors import exit_code, plain


class _Parser(argparse.ArgumentParser):
    """A parser, and those of the verbs, whose errors can be shown."""

    def error(self, message: str) -> NoReturn:
        """Prints what is wrong and ends the process."""
        super().error(plain(message.replace("\n", "\\n")))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gptopt", description="Sweeps of language-model training.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    plan.add_verbs(verbs)
    dispatch.add_verbs(verbs)
    models.add_verbs(verbs)
    import_config.add_verbs(verbs)
    return parser


def _hint(options: argparse.Namespace, unknown: str) -> str:
    """Returns the flag of the verb, or the override, that an unknown argument probably means."""
    flag, sign, value = unknown.partition("=")
    close = difflib.get_close_matches(flag, options.parser._option_string_actions, n=1, cutoff=0.75)
    if close:
        return f"did you mean {close[0]}? "
    keys = [target for target in SYNONYMS.values() if "=" not in target and not target.startswith(("+", "-"))]
    meant = suggestion(flag, keys, value if sign else None) if hasattr(options, "overrides") else ""
    return f"as an override {meant}; " if meant.startswith("write") else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `gptopt`.

    Returns:
        The exit code: 0 fine, 1 a run failed, 2 the request was wrong, 3 a sweep is still at work, 141 the reader of
        the output ended first.
    """
    return exit_code(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int | None:
    parser = _parser()
    options, further = parser.parse_known_args(arguments)
    # argparse takes `FILE seed=1 --slots 2`, but leaves over what follows an option: `FILE --slots 2 seed=1`.
    if further and (not hasattr(options, "overrides") or any(item.startswith("-") for item in further)):
        parser.error(f"unknown: {' '.join(further)}; {_hint(options, further[0])}see gptopt {options.verb} --help")
    if further:
        options.overrides += further
    code: int | None = options.run(options)
    return code
