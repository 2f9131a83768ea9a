"""Checks the composed points of a request and says everything that is wrong with them, before anything starts."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf._utils import split_key

from gpt_opt.app.app import App
from gpt_opt.config.explain import missing_problem
from gpt_opt.config.lookup import NotFound, look_up, targets
from gpt_opt.config.remember import Remembered
from gpt_opt.config.suggest import UNKNOWN_KEY, suggestion
from gpt_opt.config.yaml_files import shown
from gpt_opt.errors import Problem
from gpt_opt.plan.attribute import ErrorAttribution
from gpt_opt.plan.compose.composer import Composed, ComposeFailure, Composer
from gpt_opt.plan.compose.hydra import Known
from gpt_opt.plan.config_source import ConfigSource, key_of
from gpt_opt.plan.explain_errors import YamlErrors
from gpt_opt.plan.explain_overrides import file_problem, needed, parses
from gpt_opt.plan.multirun import CommandLine

log = logging.getLogger(__name__)


class PointChecker:
    """Says what is wrong with composed points, and why others cannot be composed.

    Args:
        app: What the points are of.

    Attributes:
        composer: What the points are composed with, so that each base is composed once.
        memo: What was found about the points of the last `compose_many`.
        elsewhere: Objects whose module is not on the path of this process, by their `_target_`.
    """

    def __init__(self, app: App) -> None:
        self._app, self._source = app, ConfigSource(app)
        self._files = YamlErrors(self._source)
        self.composer = Composer(self._source.configs, app.pure_resolvers)
        self._checks = app.checks(self._source)
        self._errors = ErrorAttribution(self._source, self.composer, self._files, self._problems_of)
        self.memo = Remembered()
        self.elsewhere: dict[str, Problem] = {}

    def loader(self, config: DictConfig | None = None) -> ConfigLoader:
        """Returns what Hydra composes the points with, or has composed the one point `config` with."""
        return self._source.loader if config is None else Known(self._source.loader, config)

    def flag_problem(self, flag: str, value: str | None) -> Problem:
        """Returns the problem of a flag that run_hydra.py does not have: settings are written without dashes."""
        if value and flag in ("--config", "--config-file") and re.search(r"\.ya?ml$", value):
            return file_problem(value, self._source)
        fix = suggestion(flag, self._source.valid_keys([]), value)
        return Problem(flag, "is no flag: settings are written KEY=VALUE", fix)

    def compose_many(
        self, points: Iterable[Sequence[str]], planned: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    ) -> Iterator[Composed | ComposeFailure]:
        """Composes points as `composer` does, with one spelling of each value.

        Args:
            points: The override strings of each.
            planned: The configs of runs that will be made before them, by id: they may start from those.
        """
        self._begin(planned)
        yield from map(self._normalized, self.composer.compose_many(points))

    def compose_one(self, line: CommandLine) -> Composed | ComposeFailure:
        """Composes the one run that a command line asks for, as `compose_many`."""
        self._begin({})
        return self._normalized(line.run() or next(self.composer.compose_many([line.overrides])))

    def _begin(self, planned: Mapping[str, Mapping[str, Any]]) -> None:
        self.memo = Remembered()  # files may have changed since
        self._checks.begin(planned, self.memo)

    def _normalized(self, result: Composed | ComposeFailure) -> Composed | ComposeFailure:
        if isinstance(result, ComposeFailure):
            return result
        config = self._app.normalized(result.config, self.memo)
        return result if config is result.config else replace(result, config=config)

    def problems(self, result: Composed | ComposeFailure, all_given: bool = True) -> list[Problem]:
        """Returns the problems of one point.

        Args:
            result: The point.
            all_given: Whether it has every key that its run will be given; otherwise a missing one is no problem.
        """
        if refused := {text: problem for text in result.overrides if (problem := self._refused(text))}:
            others = next(self.composer.compose_many([[text for text in result.overrides if text not in refused]]))
            return [*refused.values(), *self.problems(others, all_given)]
        if isinstance(result, ComposeFailure):
            return self._errors.problems(result.overrides, result.error)
        added = self._checks.added(result.overrides, result.config)
        if result.missing:
            if not all_given:
                return added
            folder, choices = self._source.configs.folder, self._source.choices(result.overrides)
            return [*added, *(self.memo(missing_problem, key, folder, choices) for key in result.missing)]
        found = [*self._checks.wrong(result.config), *self._target_problems(result.config)]
        heads = tuple(f"{problem.where}." for problem in added)
        new = [p for p in found if not _follows(p, heads)]
        located = [self._located(problem, result.overrides) for problem in new]
        return [*added, *self._checks.ignored(result.overrides, result.config), *located]

    def _refused(self, text: str) -> Problem | None:
        """Returns the problem of an override that Hydra would take, or fail at in a way that says nothing."""
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes that are no UTF-8 come from the command line as lone surrogates
            return _not_unicode(text)
        # Hydra lets keys of the root go that have no value, or no type, and a run would miss them.
        return needed(key_of(text), self._source) if text.startswith("~") and key_of(text) in self._app.needed else None

    def _problems_of(self, overrides: tuple[str, ...]) -> list[Problem]:
        """Returns the problems of the point that some overrides give, none where it cannot be composed."""
        result = self._normalized(next(self.composer.compose_many([overrides])))
        return self.problems(result) if isinstance(result, Composed) else []

    def _located(self, problem: Problem, overrides: Sequence[str]) -> Problem:
        """Returns a problem with the file and line of a chosen option that gives the key, where no override does."""
        if any(key_of(text) == problem.where for text in overrides if not self._source.is_group(text)):
            return problem
        names, files = self._source.names(overrides), self._files.files
        where = files.at(split_key(problem.where), names)
        own = [file for file in files.behind(names) if file.name.startswith(f"{problem.where}/")]
        if where is None and own:
            where = f"{shown(own[0].path)} {problem.where}"
        return replace(problem, where=where) if where else problem

    def _target_problems(self, config: Mapping[str, Any]) -> Iterator[Problem]:
        """Yields the targets that cannot be found; those that may be where the runs start go to `elsewhere`."""
        for key, name, missing in itertools.chain.from_iterable(self.memo.each(self._not_found, config)):
            problem = Problem(key, missing.message, missing.fix)
            if missing.elsewhere:
                self.elsewhere.setdefault(name, problem)
            else:
                yield problem

    def _not_found(self, key: str, value: Any) -> list[tuple[str, str, NotFound]]:
        """Returns the targets in one node that cannot be found, with their keys."""
        folders = self._app.import_folders
        asked = [(where, name, self.memo(look_up, name, *folders)) for where, name in targets({key: value})]
        return [(where, name, missing) for where, name, missing in asked if missing is not None]

    def warn_of_elsewhere(self) -> None:
        """Says which modules were not found on this machine."""
        for problem in self.elsewhere.values():
            log.warning("warning: %s: %s; a run looks for it where it starts", problem.where, problem.message)

    def command_line(self, overrides: Sequence[str]) -> CommandLine:
        """Returns the overrides of a command line as Hydra reads them."""
        return CommandLine(self._source.loader, self._source.configs.name, overrides, self._app.job_name)

    def points(self, overrides: Sequence[str], multirun: bool) -> list[list[str]]:
        """Returns the override list of every point that `overrides` ask for; see `CommandLine.points`."""
        if not multirun:
            return [list(overrides)]
        line = self.command_line(overrides)
        try:
            return line.points()
        except HydraException:
            return [[text for text in line.texts if not parses(text)]]


def _follows(problem: Problem, added: Sequence[str]) -> bool:
    """Returns whether a problem is that of an unknown key that was added, said once more of the node it is in."""
    of_node = problem.message == UNKNOWN_KEY or problem.message.startswith("lacks keys")
    return of_node and any(key.startswith(f"{problem.where}.") for key in added)


def _not_unicode(text: str) -> Problem:
    key, sign, value = text.partition("=")
    problem = f"must be text in UTF-8, but has other bytes{f': {value}' if sign else ''}"
    return Problem(key, problem, "for a file or folder: rename it, or make a link to it with another name")
