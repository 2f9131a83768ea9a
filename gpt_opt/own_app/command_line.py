"""Checks what a command line of run_hydra.py asks for, before any run of it starts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf

from gpt_opt.config.checks.finetuning import DEFAULT_METRIC, is_greater_better
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.compose.composer import Composed, ComposeFailure
from gpt_opt.plan.findings import Findings
from gpt_opt.plan.multirun import OPTUNA, CommandLine
from gpt_opt.plan.validate import PointChecker
from gpt_opt.run.devices import SWEEP
from gpt_opt.run.ranks import this_rank

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for, checked.

    Attributes:
        points: The points whose config is known before the first run, in order.
        multirun: Whether they are those of a sweep.
        overrides: The overrides of the command line.
        loader: What Hydra composes them with.
    """

    points: list[Composed]
    multirun: bool
    overrides: list[str]
    loader: ConfigLoader


def check_command_line(config_dir: Path, arguments: Sequence[str]) -> Request | None:
    """Checks every point that a command line of run_hydra.py asks for.

    Command lines that run nothing (`--cfg`, `--help`) or that name another root config are left to Hydra; each run
    checks its own config again. Where a sweeper draws the points, the fixed part and the ends of ranges are checked.

    Args:
        config_dir: The folder hydra_conf.
        arguments: The command line after the program's name.

    Returns:
        What is asked for; None where it is left to Hydra.

    Raises:
        ConfigError: If any point is wrong; names all problems of all points. Also for a sweep under torchrun.
    """
    if flags := list(_unknown_flags(arguments)):
        checker = PointChecker(own_app(config_dir))
        raise ConfigError([checker.flag_problem(flag, value) for flag, value in flags], ", nothing was started")
    asked = get_args_parser().parse_args(list(arguments))
    if asked.help or asked.hydra_help or asked.info or asked.cfg or asked.shell_completion or asked.experimental_rerun:
        return None
    further = Path(asked.config_dir) if asked.config_dir else None
    checker, findings = PointChecker(own_app(config_dir, further=further)), Findings()
    line = checker.command_line(asked.overrides)
    multirun = asked.multirun or line.chooses_multirun
    problems = list(_torchrun_problems(multirun))
    if not problems and (asked.config_path or asked.config_name):
        return None
    _warn_of_resources(line)
    points, all_given = checker.points(asked.overrides, multirun), True
    if multirun:
        unusable = line.problems()
        problems, all_given = [*problems, *unusable], line.knows_sampled_keys and not unusable
    composed: list[Composed] = []
    for index, result in enumerate(checker.compose_many(points) if multirun else [checker.compose_one(line)]):
        findings.add(checker.problems(result, all_given), index)
        composed += [result] if isinstance(result, Composed) and not result.missing else []
    problems += findings.report(len(points))
    if multirun and not line.starts_runs_here:
        checker.warn_of_elsewhere()
    elif SWEEP not in os.environ:  # a run of a sweep fails by itself, with a record: the plan has warned
        problems += checker.elsewhere.values()
    if multirun and composed and not problems:
        problems += _study_problems(line, composed[-1].config)
    if problems:
        raise ConfigError(problems, ", nothing was started")
    return Request(composed, multirun, asked.overrides, checker.loader(None if multirun else line.config))


def help_loader(config_dir: Path, arguments: Sequence[str]) -> ConfigLoader | None:
    """Returns what the configs that `--help` tells of are loaded with; None where something else is asked for."""
    asked = get_args_parser().parse_args(list(arguments))
    if not asked.help or asked.config_path or asked.config_name:
        return None
    return PointChecker(own_app(config_dir, further=Path(asked.config_dir) if asked.config_dir else None)).loader()


def composition_problems(config_dir: Path, arguments: Sequence[str]) -> list[Problem]:
    """Returns why Hydra cannot compose what a command line asks for that `check_command_line` leaves to it."""
    asked = get_args_parser().parse_args(list(arguments))
    further = Path(asked.config_dir) if asked.config_dir else None
    folder = config_dir if asked.config_path is None else Path(asked.config_path)
    checker, findings = PointChecker(own_app(folder, asked.config_name or "config", further)), Findings()
    points = checker.points(asked.overrides, asked.multirun)
    for index, result in enumerate(checker.composer.compose_many(points)):
        if isinstance(result, ComposeFailure):
            findings.add(checker.problems(result), index)
    return findings.report(len(points))


def _unknown_flags(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields the flags that Hydra's command line does not have, with the value after each."""
    known = get_args_parser()._option_string_actions
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not re.match("--?[A-Za-z]", argument):
            continue
        flag, sign, value = argument.partition("=")
        meant = [name for name in known if name.startswith(flag)] if flag.startswith("--") else []
        action = known.get(flag) or (known[meant[0]] if len(meant) == 1 else None)
        follows = bool(rest) and not rest[0].startswith("-") and "=" not in rest[0]
        if action is None:
            yield flag, value if sign else rest.pop(0) if follows else None
        elif action.nargs is None and not sign and rest:
            rest.pop(0)


def _warn_of_resources(line: CommandLine) -> None:
    """Says which resources are not read: runs that Hydra starts take what there is."""
    ignored = [text for text in line.overrides if text.lstrip("+").startswith("resources")]
    if ignored and not line.reads_resources and SWEEP not in os.environ:
        log.warning("warning: %s: gptopt submit and hydra/launcher=disbatch alone read resources", " ".join(ignored))


def _study_problems(line: CommandLine, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that Optuna optimizes what a run, with the config of any point, returns: one metric, in its direction."""
    if line.hydra is None or not line.sweeper.startswith(OPTUNA):
        return
    if config["dry_run"]:
        problem = "must be false, because the sweeper chooses values by what the runs before them came to"
        yield Problem("dry_run", problem, "leave -m and the sweeper out: one run with values, and dry_run=true")
    finetuning = config["training"]["finetuning"]
    metric, direction = finetuning["metric_for_best_model"] or DEFAULT_METRIC, line.hydra.sweeper.direction
    directions = [getattr(item, "name", item) for item in (direction if OmegaConf.is_list(direction) else [direction])]
    expected = "maximize" if is_greater_better(finetuning) else "minimize"
    if directions != [expected]:
        problem = f"must be {expected}, since a run returns {metric}, but is {', '.join(map(str, directions))}"
        fix = "another metric: training.finetuning.load_best_model_at_end=true and .metric_for_best_model"
        yield Problem("hydra.sweeper.direction", problem, fix)


def _torchrun_problems(multirun: bool) -> Iterator[Problem]:
    """Refuses a sweep under torchrun, whose processes train one run together."""
    if multirun and this_rank().count > 1:
        problem = f"must not be given to torchrun, whose {this_rank().count} processes train one run together"
        fix = "start each run with a torchrun of its own, as `gptopt submit` does with resources.gpus_per_run"
        yield Problem("--multirun", problem, fix)
