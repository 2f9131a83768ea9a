"""Checks every point of a request and says everything that is wrong with it, before anything starts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from gpt_opt.config.constraints import constraint_problems
from gpt_opt.config.explain import flat_keys, missing_keys, missing_problem, nearest
from gpt_opt.config.files import Memo, with_real_paths
from gpt_opt.errors import ConfigError, Problem, SweepError
from gpt_opt.plan.compose import Composed, ComposeFailure, Composer
from gpt_opt.run.directory import without_hydra
from gpt_opt.sweep.overrides import to_override


class Findings:
    """Problems of many points: equal ones are one line with their number and the first point that has them."""

    def __init__(self) -> None:
        self._points: dict[Problem, tuple[int, int]] = {}

    def add(self, problems: Iterable[Problem], point: int) -> None:
        """Notes the problems of a point."""
        for problem in problems:
            count, first = self._points.get(problem, (0, point))
            self._points[problem] = (count + 1, first)

    def report(self, total: int) -> list[Problem]:
        """Returns each distinct problem once, with a count unless all `total` points have it."""
        return [self._counted(problem, total) for problem in self._points]

    def _counted(self, problem: Problem, total: int) -> Problem:
        count, first = self._points[problem]
        if total == 1 or count == total:
            return problem
        shared = f"{count} of {total} points, the first is point {first}" if count > 1 else f"point {first} of {total}"
        return Problem(problem.where, f"{problem.message} ({shared})", problem.fix)


class PointChecker:
    """Says what is wrong with composed points, and why others cannot be composed.

    Args:
        config_dir: The folder hydra_conf.
        config_name: Name of the root config in it.

    Attributes:
        composer: What the points are composed with, so that each base is composed once.
    """

    def __init__(self, config_dir: Path, config_name: str = "config") -> None:
        self._dir, self._name = config_dir, config_name
        self._loader = ConfigLoaderImpl(create_config_search_path(str(config_dir.resolve())))
        self.composer = Composer(config_dir, config_name)
        self._known_options: dict[str, list[str]] = {}
        self._blamed: dict[tuple[str, ...], list[Problem]] = {}
        self._choices: dict[tuple[str, ...], dict[str, str]] = {}

    def compose_many(self, points: Iterable[Sequence[str]]) -> Iterator[Composed | ComposeFailure]:
        """Composes points as `composer` does, with the real paths of the files that they name."""
        memo: Memo = {}
        for result in self.composer.compose_many(points):
            if isinstance(result, ComposeFailure):
                yield result
                continue
            config = with_real_paths(result.config, memo)
            yield result if config is result.config else replace(result, config=config)

    def problems(self, result: Composed | ComposeFailure) -> list[Problem]:
        """Returns the problems of one point."""
        if isinstance(result, ComposeFailure):
            return self._blame_all(result.overrides, result.error)
        if result.missing:
            choices = self._chosen(result.overrides)
            return [missing_problem(key, self._dir, choices) for key in result.missing]
        return [*_lost_trackers(result.overrides), *constraint_problems(result.config)]

    def points(self, overrides: Sequence[str], multirun: bool) -> list[list[str]]:
        """Returns the override list of every point that `overrides` ask for, as Hydra's basic sweeper makes them."""
        if not multirun:
            return [list(overrides)]
        try:
            texts = [*self._sweeper_params(overrides), *overrides]
            parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(texts)
            return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
        except HydraException:
            return [[text for text in overrides if not _parses(text)]]

    def _sweeper_params(self, overrides: Sequence[str]) -> list[str]:
        """Returns what `hydra.sweeper.params` of the config adds to a multirun, as overrides."""
        try:
            config = self._loader.load_configuration(self._name, list(overrides), run_mode=RunMode.MULTIRUN)
        except (HydraException, OmegaConfBaseException):
            return []  # the points themselves will say what is wrong
        params = config.hydra.sweeper.get("params") or {}
        return [f"{key}={value}" for key, value in params.items()]

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_configuration(self._name, list(overrides), run_mode=RunMode.RUN, from_shell=False)

    def _chosen(self, overrides: tuple[str, ...]) -> dict[str, str]:
        """Returns the option of each group; points with the same group choices share one composition."""
        groups = tuple(text for text in overrides if self._is_group(text))
        if groups not in self._choices:
            config = self._compose(groups)
            self._choices[groups] = cast("dict[str, str]", OmegaConf.to_container(config.hydra.runtime.choices))
        return self._choices[groups]

    def _blame_all(self, overrides: tuple[str, ...], error: Exception) -> list[Problem]:
        """Tries the overrides one by one, on top of the group choices that can be composed, to blame the right ones.

        What is wrong with the rest of the point is told too.
        """
        blamed: dict[str, list[Problem]] = {}
        groups: list[str] = []
        for text in sorted(overrides, key=lambda item: not self._is_group(item)):
            if found := self._blame_one(text, tuple(groups)):
                blamed[text] = found
            elif self._is_group(text):
                groups.append(text)
        if not blamed:
            return self._missing(overrides) or [Problem(" ".join(overrides), _first_lines(error))]
        wrong = {self._key(text) for text in blamed}
        rest = self._rest(tuple(text for text in overrides if text not in blamed))
        return [
            *(problem for found in blamed.values() for problem in found),
            *(p for p in rest if p.where not in wrong),
        ]

    def _rest(self, overrides: tuple[str, ...]) -> list[Problem]:
        result = next(self.compose_many([overrides]))
        return self.problems(result) if isinstance(result, Composed) else []

    def _missing(self, overrides: tuple[str, ...]) -> list[Problem]:
        """Returns the missing keys of a point that composes but cannot be resolved because of them."""
        try:
            config = self._compose(overrides)
        except (HydraException, OmegaConfBaseException):
            return []
        choices = self._chosen(overrides)
        return [missing_problem(key, self._dir, choices) for key in missing_keys(without_hydra(config))]

    def _blame_one(self, text: str, groups: tuple[str, ...]) -> list[Problem]:
        key = (text, *groups)
        if key not in self._blamed:
            try:
                # A point that fails only while it is resolved, for want of a mandatory value, is no fault of the text.
                if isinstance(next(self.composer.compose_many([[*groups, text]])), ComposeFailure):
                    self._compose([*groups, text])
                self._blamed[key] = []
            except (HydraException, OmegaConfBaseException) as error:
                self._blamed[key] = [self._explain(text, error, groups)]
        return self._blamed[key]

    def _key(self, text: str) -> str:
        return text.partition("=")[0].lstrip("+~").partition("@")[0]

    def _is_group(self, text: str) -> bool:
        return bool(self._options(self._key(text)))

    def _options(self, group: str) -> list[str]:
        if group not in self._known_options:
            self._known_options[group] = self._loader.get_group_options(group, ObjectType.CONFIG)
        return self._known_options[group]

    def _explain(self, text: str, error: Exception, groups: Sequence[str]) -> Problem:
        key = self._key(text)
        if options := self._options(key):
            if "defaults list" in str(error) or "Multiple values for" in str(error):
                return _wrongly_signed(key, text, next((item for item in groups if self._key(item) == key), None))
            return Problem(key, f"must be one of {', '.join(options)}, but is {text.partition('=')[2]!r}")
        if not _parses(text):
            return Problem(text, f"is not a Hydra override: {_first_lines(error)}", _quoted(text))
        if isinstance(error.__cause__, ConfigKeyError) or "Could not override" in str(error):
            return self._unknown(text, key, groups)
        return Problem(text, _first_lines(error.__cause__ or error))

    def _unknown(self, text: str, key: str, groups: Sequence[str]) -> Problem:
        plain = cast("dict[str, Any]", OmegaConf.to_container(self._compose(groups)))
        valid = [name for name in flat_keys(plain) if not name.startswith("hydra.")]
        node, _, value = text.partition("._target_=")
        if node in plain and plain[node] is None:
            return Problem(key, f"cannot be set alone while {node} is null", f"write '{node}={{_target_: {value}}}'")
        group = key.partition(".")[0] + "."
        meant = nearest(key, [name for name in valid if name.startswith(group)] or valid)
        siblings = [name for name in valid if name.rpartition(".")[0] == key.rpartition(".")[0]]
        fix = f"did you mean {meant}?" if meant else f"valid here: {', '.join(siblings or valid)}"
        return Problem(key, f"is not a key of this config (in {text!r})", fix)


def _lost_trackers(overrides: Iterable[str]) -> Iterator[Problem]:
    """Refuses several options of logging: each sets the whole list report_to, so that only the last would count."""
    for text in overrides:
        key, _, value = text.partition("=")
        if key.lstrip("+") == "logging" and value.startswith("[") and "," in value:
            fix = f"write logging.logging_params.report_to={value} in its place"
            yield Problem("logging", f"takes one option, but {text!r} gives several", fix)


def _quoted(text: str) -> str:
    """Returns how a shell is told an override whose value Hydra is to take as it stands."""
    key, _, value = text.partition("=")
    try:
        meant = to_override(key, value)
    except SweepError:
        return "quote the value: \"key='value'\""
    return "quote it: " + (shlex.quote(meant) if set(value) & set("'\"$`\\!") else f'"{meant}"')


def _parses(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def _wrongly_signed(key: str, text: str, other: str | None) -> Problem:
    """Returns the problem of an option that is added to a group that has one, or chosen in a group that has none."""
    if other is not None:
        return Problem(key, f"takes one option, but {other!r} and {text!r} were given", "leave one of them out")
    if text.startswith("+"):
        return Problem(key, f"has an option already, so none can be added by {text!r}", f"write {text.lstrip('+')}")
    return Problem(key, f"has no option by default that {text!r} could replace", f"add one: +{text}")


def _first_lines(error: BaseException) -> str:
    """Returns the message without OmegaConf's closing lines about the object."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key:", "object_type=", "See https://"))]
    return "; ".join(kept)


def check_command_line(config_dir: Path, arguments: Sequence[str]) -> None:
    """Checks every point that a command line of run_hydra.py asks for.

    Command lines that run nothing (`--cfg`, `--help`), that bring their own config folder, or whose sweep another
    sweeper than Hydra's basic one will enumerate, are left to Hydra; each run checks its own config again.

    Args:
        config_dir: The folder hydra_conf.
        arguments: The command line after the program's name.

    Raises:
        ConfigError: If any point is wrong; names all problems of all points.
    """
    asked = get_args_parser().parse_args(list(arguments))
    foreign = asked.config_path or asked.config_dir or asked.config_name
    foreign = foreign or any(text.startswith("hydra/sweeper=") for text in asked.overrides)
    if asked.help or asked.hydra_help or asked.info or asked.cfg or asked.shell_completion or foreign:
        return
    checker, findings = PointChecker(config_dir), Findings()
    points = checker.points(asked.overrides, asked.multirun)
    for index, result in enumerate(checker.compose_many(points)):
        findings.add(checker.problems(result), index)
    problems = findings.report(len(points))
    if not points:
        problems = [Problem(" ".join(asked.overrides), "must give at least one point, but gives none")]
    if problems:
        raise ConfigError(problems, ", nothing was started")
