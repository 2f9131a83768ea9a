"""What `gptopt init` writes into a repository, and what it says of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gpt_opt.app.argparse_flags import Flags, command_of, defaults_of, flags_of
from gpt_opt.app.command import MISSING, parse_command
from gpt_opt.app.discover import Found, app_of_file, find_apps, likelihood
from gpt_opt.app.look_at_code import CodeFacts, look_at_code
from gpt_opt.app.look_at_config import SEEDS, ConfigFacts
from gpt_opt.app.settings import SETTINGS_FILE, plain_name
from gpt_opt.app.source_tree import SourceTree
from gpt_opt.app.template import Choice, command_template, metrics_source, resume_flag, template
from gpt_opt.config.nested import set_at
from gpt_opt.config.suggest import existing_path
from gpt_opt.errors import ConfigError, Problem

DEFAULTS_FILE = "defaults.yaml"

_SHOWN = 6
"""Scripts that a message lists."""


@dataclass(frozen=True)
class Initial:
    """What is to be written, and what to say.

    Attributes:
        files: The texts of new files, by their names below the root.
        found: What was found, a line each.
        sweep: A first sweep to try, as JSON: over a seed; empty where none was found.
    """

    files: dict[str, str]
    found: tuple[str, ...]
    sweep: str


def initial(root: Path, script: Path | None = None, command: str | None = None) -> Initial:
    """Returns the files for the application that is meant.

    Args:
        root: The repository.
        script: The script; without one the only one that trains by its looks.
        command: A template, for a program whose arguments only its author knows.

    Raises:
        ConfigError: If there is none, or several are as likely.
    """
    if command is not None:
        defaults = _missing_defaults(sorted(parse_command(command).keys))
        return _of_command(plain_name(root.absolute().name), command, defaults, Flags(), CodeFacts())
    if script is None:
        return _of_hydra(root, *_likeliest(root))
    file = root.absolute() / script
    if not file.is_file() or not file.is_relative_to(root.absolute()):
        fix = existing_path("SCRIPT", file).removeprefix("did you mean SCRIPT=")
        raise ConfigError([Problem(str(script), f"must be a script below {root}", fix)])
    app = app_of_file(root, file)
    return _of_hydra(root, app, ()) if app is not None else _of_argparse(root, file)


def _likeliest(root: Path) -> tuple[Found, Sequence[Found]]:
    found = find_apps(root)
    if not found:
        raise ConfigError([_nothing(root)])
    first, *others = found
    equal = [app for app in others if likelihood(app.file) == likelihood(first.file)]
    equal = [app for app in equal if len(app.file.parts) == len(first.file.parts)]
    if equal:
        listed = ", ".join(str(app.file) for app in (first, *equal)[:_SHOWN])
        message = f"several scripts have @hydra.main: {listed}"
        raise ConfigError([Problem(str(root), message, f"say which, for example: gptopt init {first.file}")])
    return first, others


def _nothing(root: Path) -> Problem:
    sources = SourceTree(root.absolute())
    parsed = ((file, tree) for file in sources.files if (tree := sources.tree(file)) is not None)
    found = (file.relative_to(sources.root) for file, tree in parsed if flags_of(tree).flags)
    with_flags = sorted(found, key=likelihood)
    message = f"none of the {len(sources.files)} Python files has @hydra.main"
    if with_flags:
        listed = ", ".join(map(str, with_flags[:_SHOWN]))
        return Problem(str(root), f"{message}; with argparse: {listed}", f"gptopt init {with_flags[0]}")
    return Problem(str(root), message, 'gptopt init --command "python train.py --lr {lr} --seed {seed}"')


def _of_hydra(root: Path, app: Found, others: Sequence[Found]) -> Initial:
    if app.config_path is not None and app.config_path.startswith(".."):
        above = Path(os.path.normpath(root.absolute() / app.config_path)).parent
        above = Path(os.path.commonpath([above, root.absolute()]))
        message = f"must be below the folder of {SETTINGS_FILE}, from a copy of which runs start, but are above it"
        fix = f"cd {os.path.relpath(above, root)} && gptopt init {os.path.relpath(root.absolute() / app.file, above)}"
        raise ConfigError([Problem(f"its configs {app.config_path}", message, fix)])
    metrics = metrics_source(app.code, app.config)
    program = f"python -m {app.module}" if app.module else app.file
    name = app.config_name or "config"
    lines = [f"{program}, its config {f'{app.config_path}/{name}' if app.config_path else f'{name}, in its code'}"]
    if app.registers:
        lines.append(f"it is imported to compose its configs: {app.registers[0]}")
    lines.append(_metrics_line(metrics))
    lines.append(_resume_line(app.config.resume))
    if others:
        lines.append(f"left aside: {', '.join(str(other.file) for other in others[:_SHOWN])}")
    key, _, option = metrics.needs.partition("=")
    return Initial(
        {SETTINGS_FILE: template(app)}, tuple(lines), _first_sweep(app.config.seeds, {key: option} if key else {})
    )


def _of_argparse(root: Path, file: Path) -> Initial:
    sources = SourceTree(root.absolute())
    trees = [sources.tree(other) for other in sources.imported_with(file)]
    found = next((found for tree in trees if tree is not None and (found := flags_of(tree)).flags), Flags())
    script = file.relative_to(sources.root)
    if not found.flags or found.subcommands:
        problem, verb = "must have @hydra.main or the arguments of argparse in it", ""
        if found.subcommands:
            problem = f"has subcommands, {', '.join(found.subcommands)}, each with arguments of its own: say which"
            verb = f" {found.subcommands[0]}"
        fix = f'gptopt init --command "python {script}{verb} --lr={{lr}} --seed={{seed}}"'
        raise ConfigError([Problem(str(script), problem, fix)])
    command, defaults = command_of(script, found.flags), defaults_of(found.flags)
    return _of_command(plain_name(file.stem), command, defaults, found, look_at_code(sources, file))


def _of_command(name: str, command: str, defaults: str, found: Flags, code: CodeFacts) -> Initial:
    files = {
        SETTINGS_FILE: command_template(name, command, DEFAULTS_FILE, found.flags, code),
        DEFAULTS_FILE: defaults,
    }
    left_out = f"left out, write them into the command yourself: {', '.join(found.left_out)}"
    lines = (
        f"command: {command}",
        f"its parameters: {DEFAULTS_FILE}",
        *([left_out] if found.left_out else []),
        _metrics_line(metrics_source(code, ConfigFacts())),
        _resume_line(resume_flag(found.flags)),
    )
    return Initial(files, lines, _first_sweep([flag.key for flag in found.flags if flag.key in SEEDS], {}))


def _resume_line(by: str | None) -> str:
    return (
        f"goes on from a checkpoint by {by}"
        if by
        else "a run that is stopped starts anew: [resume] can say how it goes on"
    )


def _metrics_line(metrics: Choice) -> str:
    return f"metrics: {metrics.value}" + (f" ({metrics.why})" if metrics.why else "")


def _missing_defaults(keys: Sequence[str]) -> str:
    tree: dict[str, Any] = {}
    for key in keys:
        set_at(tree, key, MISSING)
    head = "# The parameters of the command of gptopt.toml: give their defaults; ??? must be given by the sweep.\n"
    return head + yaml.safe_dump(tree, sort_keys=False)


def _first_sweep(seeds: Sequence[str], base: dict[str, str]) -> str:
    if not seeds:
        return ""
    grid = {seeds[0]: [0, 1]}
    return json.dumps({"base": base, "grid": grid} if base else grid)
