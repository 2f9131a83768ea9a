"""Composes every point of a request and says everything that is wrong with it, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from gpt_opt.config.constraints import constraint_problems
from gpt_opt.config.explain import flat_keys, missing_keys, missing_problem, nearest
from gpt_opt.errors import ConfigError, Problem


class PointChecker:
    """Checks points against the configs of one folder.

    Args:
        config_dir: The folder hydra_conf.
        config_name: Name of the root config in it.
    """

    def __init__(self, config_dir: Path, config_name: str = "config") -> None:
        self._dir = config_dir
        self._name = config_name
        self._loader = ConfigLoaderImpl(create_config_search_path(str(config_dir)))

    def problems(self, points: Sequence[Sequence[str]]) -> list[Problem]:
        """Returns all problems of all points; one that several points share is named once, with their number.

        Args:
            points: Hydra override strings, one list a point.
        """
        counts: dict[Problem, int] = {}
        with initialize_config_dir(str(self._dir.absolute()), version_base="1.3"):
            for point in points:
                for problem in self._point(point):
                    counts[problem] = counts.get(problem, 0) + 1
        return [_counted(problem, count, len(points)) for problem, count in counts.items()]

    def points(self, overrides: Sequence[str], multirun: bool) -> list[list[str]]:
        """Returns the override list of every point that `overrides` ask for, as Hydra's basic sweeper makes them."""
        if not multirun:
            return [list(overrides)]
        try:
            parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(list(overrides))
            return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
        except HydraException:
            return [[text] for text in overrides]

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return compose(self._name, overrides=list(overrides), return_hydra_config=True)

    def _point(self, overrides: Sequence[str]) -> list[Problem]:
        try:
            return self._config_problems(self._compose(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            return self._explain(overrides) or [Problem(" ".join(overrides), _first_lines(error))]

    def _config_problems(self, config: DictConfig) -> list[Problem]:
        chosen = cast("dict[str, str]", OmegaConf.to_container(config.hydra.runtime.choices))
        plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        if missing := missing_keys(plain):
            return [missing_problem(key, self._dir, chosen) for key in missing]
        resolved = OmegaConf.to_container(plain, resolve=True, enum_to_str=True)
        return constraint_problems(cast("dict[str, Any]", resolved))

    def _explain(self, overrides: Sequence[str]) -> list[Problem]:
        """Tries the overrides one by one, on top of the config groups that can be composed, to blame the right ones."""
        blamed: list[Problem] = []
        accepted: list[str] = []
        for text in sorted(overrides, key=lambda item: not self._is_group(item)):
            try:
                self._compose([*accepted, text])
            except (HydraException, OmegaConfBaseException) as error:
                blamed.append(self._blame(text, error, accepted))
            else:
                accepted.append(text)
        return blamed

    def _key(self, text: str) -> str:
        return text.partition("=")[0].lstrip("+~").partition("@")[0]

    def _is_group(self, text: str) -> bool:
        return bool(self._options(self._key(text)))

    def _options(self, group: str) -> list[str]:
        return [name for name in self._loader.get_group_options(group, ObjectType.CONFIG) if group != "schema"]

    def _blame(self, text: str, error: Exception, accepted: Sequence[str]) -> Problem:
        key = self._key(text)
        if options := self._options(key):
            return Problem(key, f"must be one of {', '.join(options)}, but is {text.partition('=')[2]!r}")
        try:
            OverridesParser.create().parse_override(text)
        except HydraException as unparsable:
            return Problem(text, f"is not a Hydra override: {_first_lines(unparsable)}", "quote it: \"key='value'\"")
        if isinstance(error.__cause__, ConfigKeyError) or "Could not override" in str(error):
            return self._unknown(text, key, accepted)
        return Problem(text, _first_lines(error.__cause__ or error))

    def _unknown(self, text: str, key: str, accepted: Sequence[str]) -> Problem:
        plain = OmegaConf.to_container(self._compose(accepted))
        valid = [name for name in flat_keys(cast("dict[str, Any]", plain)) if not name.startswith("hydra.")]
        group = key.partition(".")[0] + "."
        meant = nearest(key, [name for name in valid if name.startswith(group)] or valid)
        siblings = [name for name in valid if name.rpartition(".")[0] == key.rpartition(".")[0]]
        fix = f"did you mean {meant}?" if meant else f"valid here: {', '.join(siblings or valid)}"
        return Problem(key, f"is not a key of this config (in {text!r})", fix)


def _first_lines(error: BaseException) -> str:
    """Returns the message without OmegaConf's closing lines about the object."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key:", "object_type=", "See https://"))]
    return "; ".join(kept)


def _counted(problem: Problem, count: int, points: int) -> Problem:
    if points == 1 or count == points:
        return problem
    return Problem(problem.where, f"{problem.message} ({count} of {points} points)", problem.fix)


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
    if asked.help or asked.hydra_help or asked.info or asked.cfg or foreign:
        return
    checker = PointChecker(config_dir)
    if problems := checker.problems(checker.points(asked.overrides, asked.multirun)):
        raise ConfigError(problems)
