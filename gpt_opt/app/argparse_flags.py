"""A script with argparse -> the command and the defaults that its `gptopt.toml` needs, by parsing it alone."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.app.command import MISSING, RUN_DIR
from gpt_opt.app.source_tree import dotted

_OUTPUT = frozenset({"output_dir", "out_dir", "outdir", "save_dir", "log_dir", "logdir", "logging_dir", "run_dir"})
"""Names of arguments that say where a run writes: the run directory."""

_BOTH_WAYS = frozenset({"argparse.BooleanOptionalAction", "BooleanOptionalAction"})
_SWITCHES = frozenset({"store_true", "store_false"}) | _BOTH_WAYS
_NO_PARAMETERS = frozenset({"help", "version"})

_OF_DEFAULT = re.compile(r"[\s,;]*[(\[]?(default|defaults to)?:?\s*%\(default\)\w[)\]]?", re.IGNORECASE)
"""What a help text says of the default, which stands beside it anyway."""


@dataclass(frozen=True)
class Flag:
    """One argument of a script.

    Attributes:
        key: What the defaults call it.
        option: `--lr`; empty for a positional argument.
        default: Its default, None where it has none or computes it, `MISSING` where it must be given.
        help: What the script says of it, on one line.
        is_switch: Whether it takes no value: it is there or not.
        is_several: Whether its value may be several words.
    """

    key: str
    option: str
    default: Any
    help: str
    is_switch: bool = False
    is_several: bool = False

    @property
    def is_output(self) -> bool:
        """Whether it says where the run writes, which is the directory of the run."""
        return self.key in _OUTPUT

    @property
    def words(self) -> str:
        """What the command has for it."""
        field = f"{{{RUN_DIR if self.is_output else self.key}}}"
        one_word = self.option.startswith("--") and not self.is_switch and not self.is_several
        # In a word of its own argparse takes -1e-05, or a text that begins with a dash, for an option.
        words = f"{self.option}={field}" if one_word else f"{self.option} {field}".strip()
        return f"[{words}]" if not self.is_output and (self.default is None or self.is_switch) else words


@dataclass(frozen=True)
class Flags:
    """What a script says of its command line.

    Attributes:
        flags: The arguments that it adds to a parser, each once, in order.
        left_out: The first words of its calls for others, which a command cannot both give and leave out.
        subcommands: Their names.
    """

    flags: tuple[Flag, ...] = ()
    left_out: tuple[str, ...] = ()
    subcommands: tuple[str, ...] = ()


def flags_of(tree: ast.Module) -> Flags:
    """Returns what a script says of its command line."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
    flags: dict[str, Flag] = {}
    left_out: list[str] = []
    subcommands: list[str] = []
    for call in sorted(calls, key=lambda node: node.lineno):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name == "add_parser" and call.args:
            subcommands.append(str(_literal(call.args[0]) or "NAME"))
        elif name == "add_argument" and (flag := _flag(call)) is not None:
            flags[flag.key] = flag
        elif name == "add_argument" and _action(call) not in _NO_PARAMETERS:
            left_out.append(ast.unparse(call.args[0]) if call.args else "add_argument()")
    return Flags(tuple(flags.values()), tuple(left_out), tuple(subcommands))


def command_of(script: Path, flags: Sequence[Flag]) -> str:
    """Returns the template of a command that starts a script, whose path is relative to the root of the repository."""
    return " ".join(["python", shlex.quote(script.as_posix()), *(flag.words for flag in flags)])


def defaults_of(flags: Sequence[Flag]) -> str:
    """Returns the text of the YAML file with the parameters of a command."""
    lines = ["# The parameters of the command of gptopt.toml, with their defaults; ??? must be given."]
    for flag in flags:
        if not flag.is_output:
            value = json.dumps(flag.default, ensure_ascii=False).replace("${", "\\\\${")
            value = MISSING if flag.default == MISSING else value
            lines.append(f"{flag.key}: {value}" + (f"  # {flag.help}" if flag.help else ""))
    return "\n".join(lines) + "\n"


def _action(call: ast.Call) -> str:
    node = next((item.value for item in call.keywords if item.arg == "action"), None)
    return "store" if node is None else str(_literal(node) or dotted(node))


def _flag(call: ast.Call) -> Flag | None:
    """Returns an argument; None for one that the words of a command cannot both give and leave out."""
    names = [item.value for item in call.args if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    given = {item.arg: item.value for item in call.keywords if item.arg}
    options = sorted((name for name in names if name.startswith("-")), key=lambda name: not name.startswith("--"))
    option, action, default = (options or [""])[0], _action(call), _literal(given.get("default"))
    is_switch = action in _SWITCHES
    if is_switch and default and action in _BOTH_WAYS:
        option = option.replace("--", "--no-", 1)  # what changes anything
    is_named_by_option = is_switch and (action == "store_false" or default)
    dest = None if is_named_by_option else _literal(given.get("dest"))
    key = re.sub(r"\W", "_", str(dest or option.lstrip("-") or (names or [""])[0]))
    is_bool = "type" in given and dotted(given["type"]) == "bool"  # takes every text for true
    useless = action == "store_true" and default
    if not key or is_bool or useless or not (is_switch or action == "store"):
        return None
    if is_switch:
        default = False
    elif default is None and (not options or _literal(given.get("required"))):
        default = MISSING
    words = _OF_DEFAULT.sub("", " ".join(str(_literal(given.get("help")) or "").split())).replace("%%", "%")
    is_several = "nargs" in given and _literal(given["nargs"]) != "?"
    return Flag(key, option, default, words, is_switch, is_several)


def _literal(node: ast.expr | None) -> Any:
    """Returns the value of a literal that JSON has too; None for others."""
    try:
        value = None if node is None else ast.literal_eval(node)
        return json.loads(json.dumps(value))
    except (ValueError, TypeError, SyntaxError):
        return None
