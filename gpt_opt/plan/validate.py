"""Checks every point of a request and says everything that is wrong with it, before anything starts."""

from __future__ import annotations

import difflib
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf._utils import split_key
from omegaconf.errors import ConfigKeyError, InterpolationResolutionError, InterpolationToMissingValueError

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.checks.models import listed_model
from gpt_opt.config.explain import keys_like, missing_keys, missing_problem
from gpt_opt.config.files import with_real_paths
from gpt_opt.config.lookup import NotFound, look_up, targets
from gpt_opt.config.overrides import parse_override
from gpt_opt.config.remember import Remembered
from gpt_opt.config.suggest import UNKNOWN_KEY, suggestion, unknown_key
from gpt_opt.config.yaml_files import shown
from gpt_opt.errors import ConfigError, Problem, SweepError
from gpt_opt.plan.added_keys import AddedKeys
from gpt_opt.plan.compose.composer import Composed, ComposeFailure, Composer
from gpt_opt.plan.compose.hydra import search_path
from gpt_opt.plan.explain_errors import YamlErrors, first_lines, full_key, interpolation_words
from gpt_opt.plan.multirun import INSTALL_OPTUNA, CommandLine
from gpt_opt.run.devices import SWEEP
from gpt_opt.run.ranks import this_rank
from gpt_opt.run.resolvers import without_hydra
from gpt_opt.sweep.overrides import shell_word, target, to_override

log = logging.getLogger(__name__)


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
        further: Folder of more config groups, as `--config-dir` gives one.

    Attributes:
        composer: What the points are composed with, so that each base is composed once.
        memo: What was found about the points of the last `compose_many`.
        elsewhere: Objects whose module is not on the path of this process, by their `_target_`.
    """

    def __init__(self, config_dir: Path, config_name: str = "config", further: Path | None = None) -> None:
        self._dir, self._root, self._name = config_dir, config_dir.resolve().parent, config_name
        path = search_path(config_dir, further)
        self._loader = ConfigLoaderImpl(path)
        self._yaml = YamlErrors(path, config_name)
        self.composer = Composer(config_dir, config_name, further=further)
        self._added = AddedKeys(self._compose, self._is_group)
        self._known_options: dict[str, list[str]] = {}
        self._blamed: dict[tuple[str, ...], list[Problem]] = {}
        self._choices: dict[tuple[str, ...], dict[str, str]] = {}
        self._unknown_keys: dict[tuple[str, ...], list[Problem]] = {}
        self.memo = Remembered()
        self.elsewhere: dict[str, Problem] = {}

    def flag_problem(self, flag: str, value: str | None) -> Problem:
        """Returns the problem of a flag that run_hydra.py does not have: settings are written without dashes."""
        if value and flag in ("--config", "--config-file") and re.search(r"\.ya?ml$", value):
            return self._file(value)
        return Problem(flag, "is no flag: settings are written KEY=VALUE", suggestion(flag, self._valid([]), value))

    def compose_many(self, points: Iterable[Sequence[str]]) -> Iterator[Composed | ComposeFailure]:
        """Composes points as `composer` does, with the real paths of the files that they name."""
        self.memo = Remembered()  # files may have changed since
        yield from map(self._with_real_paths, self.composer.compose_many(points))

    def _with_real_paths(self, result: Composed | ComposeFailure) -> Composed | ComposeFailure:
        if isinstance(result, ComposeFailure):
            return result
        config = with_real_paths(result.config, self.memo)
        return result if config is result.config else replace(result, config=config)

    def problems(self, result: Composed | ComposeFailure, all_given: bool = True) -> list[Problem]:
        """Returns the problems of one point.

        Args:
            result: The point.
            all_given: Whether it has every key that its run will be given; otherwise a missing one is no problem.
        """
        if foreign := [text for text in result.overrides if not _is_unicode(text)]:
            others = next(self.composer.compose_many([[text for text in result.overrides if text not in foreign]]))
            return [*map(_not_unicode, foreign), *self.problems(others, all_given)]
        if isinstance(result, ComposeFailure):
            return self._blame_all(result.overrides, result.error)
        added = list(self._added.problems(result))
        if result.missing:
            choices = self._chosen(result.overrides) if all_given else {}
            lacking = [self.memo(missing_problem, key, self._dir, choices) for key in result.missing if all_given]
            return [*added, *lacking]
        found = [*constraint_problems(result.config, self.memo), *self._target_problems(result.config)]
        told = tuple(f"{problem.where}." for problem in added)
        new = [p for p in found if p.message != UNKNOWN_KEY or not any(key.startswith(f"{p.where}.") for key in told)]
        located = [self._located(problem, result.overrides) for problem in new]
        lost = [*_lost_trackers(result.overrides), *_lost_model(result.overrides, result.config)]
        return [*added, *lost, *located]

    def _located(self, problem: Problem, overrides: Sequence[str]) -> Problem:
        """Returns a problem with the file and line of a chosen option that gives the key, where no override does."""
        if any(self._key(text) == problem.where for text in overrides if not self._is_group(text)):
            return problem
        names = self._names(overrides)
        where = self._yaml.files.at(split_key(problem.where), names)
        own = [file for file in self._yaml.files.behind(names) if file.name.startswith(f"{problem.where}/")]
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
        asked = [(where, name, self.memo(look_up, name, self._root)) for where, name in targets({key: value})]
        return [(where, name, missing) for where, name, missing in asked if missing is not None]

    def warn_of_elsewhere(self) -> None:
        """Says which modules were not found on this machine."""
        for problem in self.elsewhere.values():
            log.warning("warning: %s: %s; a run looks for it where it starts", problem.where, problem.message)

    def command_line(self, overrides: Sequence[str]) -> CommandLine:
        """Returns the overrides of a command line as Hydra reads them."""
        return CommandLine(self._loader, self._name, overrides)

    def points(self, overrides: Sequence[str], multirun: bool) -> list[list[str]]:
        """Returns the override list of every point that `overrides` ask for; see `CommandLine.points`."""
        if not multirun:
            return [list(overrides)]
        line = self.command_line(overrides)
        try:
            return line.points()
        except HydraException:
            return [[text for text in line.texts if not _parses(text)]]

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

        What is wrong with the rest of the point is told too, unless it is a file that is wrong: what follows from it
        cannot be known.
        """
        if found := self._root_problems():
            return found
        blamed: dict[str, list[Problem]] = {}
        groups: list[str] = []
        for text in sorted(overrides, key=lambda item: not self._is_group(item)):
            if found := self._blame_one(text, tuple(groups)):
                blamed[text] = found
            elif self._is_group(text):
                groups.append(text)
        if not blamed:
            missing = self._missing(overrides)
            follows = isinstance(error, InterpolationToMissingValueError) or "Missing mandatory value" in str(error)
            return missing if missing and follows else [self._unresolved(overrides, error), *missing]
        files = [text for text in blamed if self._exists(text)]
        if files:
            return list(dict.fromkeys(problem for text in files for problem in blamed[text]))
        wrong = {self._key(text) for text in blamed}
        rest = self._rest(tuple(text for text in overrides if text not in blamed))
        if any(text.startswith("+") and self._is_group(text) for text in blamed):  # it would have given more keys
            rest = [item for item in rest if not item.message.startswith("is mandatory")]
        return [
            *(problem for found in blamed.values() for problem in found),
            *(p for p in rest if p.where not in wrong),
        ]

    def _rest(self, overrides: tuple[str, ...]) -> list[Problem]:
        result = self._with_real_paths(next(self.composer.compose_many([overrides])))
        return self.problems(result) if isinstance(result, Composed) else []

    def _missing(self, overrides: tuple[str, ...]) -> list[Problem]:
        """Returns the missing keys of a point that composes but cannot be resolved because of them."""
        try:
            config = self._compose(overrides)
        except Exception:  # whatever Hydra raises is told as the error of the point
            return []
        choices = self._chosen(overrides)
        return [missing_problem(key, self._dir, choices) for key in missing_keys(without_hydra(config))]

    def _blame_one(self, text: str, groups: tuple[str, ...]) -> list[Problem]:
        key, alike = (text, *groups), (text.partition("=")[0], *groups)
        if alike in self._unknown_keys:  # whatever its value
            return self._unknown_keys[alike]
        if key not in self._blamed:
            try:
                # A point that fails only while it is resolved, for want of a mandatory value, is no fault of the text.
                if isinstance(next(self.composer.compose_many([[*groups, text]])), ComposeFailure):
                    self._compose([*groups, text])
                self._blamed[key] = []
            except Exception as error:  # whatever Hydra raises for this text, and YAML for a file that it names
                self._blamed[key] = self._explain(text, error, groups)
                if not self._exists(text) and self._blamed[key][0].message.startswith(UNKNOWN_KEY):
                    self._unknown_keys[alike] = self._blamed[key]
        return self._blamed[key]

    def _root_problems(self) -> list[Problem]:
        """Returns what is wrong with the files that every point is composed from."""
        if "" not in self._known_options:
            self._known_options[""] = []
            self._blamed[()] = self._yaml.root_problems()
        return self._blamed[()]

    def _exists(self, text: str) -> bool:
        """Returns whether an override chooses an option that there is."""
        return text.partition("=")[2] in self._options(self._key(text))

    def _names(self, overrides: Iterable[str]) -> list[str]:
        """Returns the options that overrides choose, as defaults lists name them."""
        return [f"{self._key(text)}/{text.partition('=')[2]}" for text in overrides if self._exists(text)]

    def _unresolved(self, overrides: tuple[str, ...], error: Exception) -> Problem:
        """Returns the problem of a point of which no single override is to blame."""
        choices = self._chosen(overrides)
        names = [*self._names(overrides), *(f"{group}/{option}" for group, option in choices.items())]
        where = self._yaml.interpolation(names, error, self._valid(overrides))
        if where is None and isinstance(error, InterpolationResolutionError):
            text = next((text for text in overrides if "${" in text), " ".join(overrides))
            return Problem(text, *interpolation_words(error, self._valid(overrides)))
        return where or Problem(" ".join(overrides), first_lines(error))

    def _valid(self, overrides: Sequence[str]) -> list[str]:
        """Returns the keys of the config with these overrides, without Hydra's own; none where there is no config."""
        try:
            config = self._compose(overrides)
        except Exception:  # told elsewhere
            return []
        return keys_like(config, "")

    def _key(self, text: str) -> str:
        return target(text.partition("=")[0]).partition("@")[0]

    def _is_group(self, text: str) -> bool:
        return bool(self._options(self._key(text)))

    def _options(self, group: str) -> list[str]:
        if group not in self._known_options:
            try:
                self._known_options[group] = self._loader.get_group_options(group, ObjectType.CONFIG)
            except OSError:  # too long for a folder's name
                self._known_options[group] = []
        return self._known_options[group]

    def _explain(self, text: str, error: Exception, groups: Sequence[str]) -> list[Problem]:
        key, value = self._key(text), text.partition("=")[2]
        if self._exists(text):
            other = next((item for item in groups if self._key(item) == key), None)
            if (other and f"Multiple values for {key}" in str(error)) or f"override '{key}'" in str(error):
                return [_wrongly_signed(key, text, other)]
            if located := self._yaml.interpolation(self._names([text]), error, self._valid([*groups, text])):
                return [located]
            return self._yaml.problems(f"{key}/{value}", [*groups, text], error)
        if options := self._options(key):
            fix = INSTALL_OPTUNA if text.startswith("hydra/sweeper") and text.endswith("=optuna") else ""
            problem = f"must be one of {', '.join(options)}, but is {value!r}"
            return [Problem(key, problem, fix or _option(text, options))]
        if re.fullmatch(r"\S+\.(json|ya?ml)", text):
            return [self._file(text)]
        if "=" not in text.strip("=") and not text.startswith("~"):
            problem = "is no setting: those are written KEY=VALUE, without blanks around the ="
            return [Problem(text or "''", problem, f"write {text}=VALUE" if key in self._valid(groups) else "")]
        if not _parses(text):
            return [Problem(text, f"is not a Hydra override: {first_lines(error)}", _quoted(text))]
        if "Ambiguous value" in str(error):
            fix = f"to train each of them: -m {text}; as one list: {key}=[{value}]; as a text: \"{key}='{value}'\""
            return [Problem(key, f"has several values, {value}, but without -m there is one run", fix)]
        unknown = isinstance(error, OSError) or isinstance(error.__cause__, ConfigKeyError)
        if unknown or "Could not override" in str(error):
            inside = full_key(error.__cause__ or error)  # loss={betta: 1}
            return [self._unknown(text, inside if inside.startswith(f"{key}.") else key, groups)]
        if "Could not append" in str(error):
            return [Problem(key, "has a value already, so none can be added", f"write {text.lstrip('+')}")]
        if text.startswith("~"):
            if key not in self._valid(groups):
                return [self._unknown(text, key, groups)]
            return [Problem(key, "is needed, so it cannot be deleted", "give it another value, or leave it as it is")]
        if isinstance(error, InterpolationResolutionError):
            return [Problem(text, *interpolation_words(error, self._valid(groups)))]
        several = re.fullmatch(r"\[(.+)\]", value)
        return [
            Problem(
                text, first_lines(error.__cause__ or error), f"to train each: -m {key}={several[1]}" if several else ""
            )
        ]

    def _file(self, text: str) -> Problem:
        """Returns the problem of a file where an override is expected."""
        name = Path(text).stem
        if text.endswith(".json"):
            fix = f"a sweep file is for `gptopt plan {text}` and `gptopt submit {text}`"
        elif name in self._options("exp"):
            fix = f"write +exp={name}"
        else:
            fix = f"`gptopt import-config {text} -o hydra_conf/exp/{name}.yaml` makes an experiment of one in TRL's "
            fix += f"words; put one of ours into hydra_conf/exp/; then write +exp={name}"
        return Problem(text, "is a file, but settings are written KEY=VALUE", fix)

    def _unknown(self, text: str, key: str, groups: Sequence[str]) -> Problem:
        config = self._compose(groups)
        node, _, value = text.partition("._target_=")
        child = config._get_node(node, validate_access=False)
        if isinstance(child, Node) and child._is_none():
            return Problem(key, f"cannot be set alone while {node} is null", f"write '{node}={{_target_: {value}}}'")
        return unknown_key(key, keys_like(config, key), text.partition("=")[2])


def _option(text: str, options: Sequence[str]) -> str:
    """Returns what was meant by an option that a group does not have; for models and data perhaps a name on the hub."""
    group, _, value = text.partition("=")
    if group in _BY_NAME and ("/" in value or Path(value).suffix):
        return f"write {_BY_NAME[group]}{value}"
    near = difflib.get_close_matches(value.lower(), options, n=1)
    meant = f"did you mean {group}={near[0]}?" if near else ""
    if group in _BY_NAME and value:
        return f"{meant} one of the hub, or a path, is {_BY_NAME[group]}{value}".strip()
    return meant


_BY_NAME = {"model": "model=hf model.name_or_path=", "data": "data=hf data.dataset.path="}


def _lost_trackers(overrides: Iterable[str]) -> Iterator[Problem]:
    """Refuses several options of logging: each sets the whole list report_to, so that only the last would count."""
    for text in overrides:
        key, _, value = text.partition("=")
        if key.lstrip("+") == "logging" and value.startswith("[") and "," in value:
            fix = f"write logging.logging_params.report_to={value} in its place"
            yield Problem("logging", f"takes one option, but {text!r} gives several", fix)


def _lost_model(overrides: Iterable[str], config: Mapping[str, Any]) -> Iterator[Problem]:
    """Refuses an option of the group model beside `models`: the experiment's list would choose the weights anyway."""
    models, index = config["models"], config["model_index"]
    for text in overrides if models is not None and index is not None else ():
        key, _, value = text.partition("=")
        if key == "model" and value != "hf":
            chosen = listed_model(models, index, "name_or_path")
            problem = f"is chosen by models[{index}]={chosen} of the experiment, so {text!r} would be ignored"
            fix = f"choose by model_index, or by models=[...]; or leave the experiment out: +exp=hh_dpo {text}"
            yield Problem("model", problem, fix)


def _quoted(text: str) -> str:
    """Returns how a shell is told an override whose value Hydra is to take as it stands."""
    key, _, value = text.partition("=")
    try:
        meant = to_override(key, value)
    except SweepError:
        return "quote the value: \"key='value'\""
    word = shell_word(meant)
    return "quote it: " + (word if set(value) & set("'\"$`\\!") or word.startswith("$") else f'"{meant}"')


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 come from the command line as lone surrogates
        return False
    return True


def _not_unicode(text: str) -> Problem:
    key, sign, value = text.partition("=")
    problem = f"must be text in UTF-8, but has other bytes{f': {value}' if sign else ''}"
    return Problem(key, problem, "for a file or folder: rename it, or make a link to it with another name")


def _parses(text: str) -> bool:
    try:
        parse_override(text)
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


def check_command_line(config_dir: Path, arguments: Sequence[str]) -> tuple[list[Composed], bool]:
    """Checks every point that a command line of run_hydra.py asks for.

    Command lines that run nothing (`--cfg`, `--help`) or that name another root config are left to Hydra; each run
    checks its own config again. Where a sweeper draws the points, the fixed part and the ends of ranges are checked.

    Args:
        config_dir: The folder hydra_conf.
        arguments: The command line after the program's name.

    Returns:
        The points, in order, and whether they are those of a sweep; no points where they are left to Hydra.

    Raises:
        ConfigError: If any point is wrong; names all problems of all points. Also for a sweep under torchrun.
    """
    if flags := list(_unknown_flags(arguments)):
        checker = PointChecker(config_dir)
        raise ConfigError([checker.flag_problem(flag, value) for flag, value in flags], ", nothing was started")
    asked = get_args_parser().parse_args(list(arguments))
    if asked.help or asked.hydra_help or asked.info or asked.cfg or asked.shell_completion:
        return [], False
    further = Path(asked.config_dir) if asked.config_dir else None
    checker, findings = PointChecker(config_dir, further=further), Findings()
    line = checker.command_line(asked.overrides)
    multirun = asked.multirun or line.chooses_multirun
    problems = list(_torchrun_problems(multirun))
    if not problems and (asked.config_path or asked.config_name):
        return [], False
    _warn_of_resources(line)
    points, all_given = checker.points(asked.overrides, multirun), True
    if multirun:
        unusable = line.problems()
        problems, all_given = [*problems, *unusable], line.knows_sampled_keys and not unusable
    composed: list[Composed] = []
    for index, result in enumerate(checker.compose_many(points)):
        findings.add(checker.problems(result, all_given), index)
        composed += [result] if isinstance(result, Composed) and not result.missing else []
    problems += findings.report(len(points))
    if multirun and not line.starts_runs_here:
        checker.warn_of_elsewhere()
    elif SWEEP not in os.environ:  # a run of a sweep fails by itself, with a record: the plan has warned
        problems += checker.elsewhere.values()
    if multirun and composed and not problems:
        problems += line.study_problems(composed[-1].config)
    if problems:
        raise ConfigError(problems, ", nothing was started")
    return composed, multirun


def composition_problems(config_dir: Path, arguments: Sequence[str]) -> list[Problem]:
    """Returns why Hydra cannot compose what a command line asks for that `check_command_line` leaves to it.

    Args:
        config_dir: The folder hydra_conf.
        arguments: The command line after the program's name.
    """
    asked = get_args_parser().parse_args(list(arguments))
    further = Path(asked.config_dir) if asked.config_dir else None
    folder = config_dir if asked.config_path is None else Path(asked.config_path)
    checker, findings = PointChecker(folder, asked.config_name or "config", further), Findings()
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
    said = [text for text in line.overrides if text.lstrip("+").startswith("resources")]
    if said and not line.reads_resources and SWEEP not in os.environ:
        log.warning("warning: %s: gptopt submit and hydra/launcher=disbatch alone read resources", " ".join(said))


def _torchrun_problems(multirun: bool) -> Iterator[Problem]:
    """Refuses a sweep under torchrun, whose processes train one run together."""
    if multirun and this_rank().count > 1:
        problem = f"must not be given to torchrun, whose {this_rank().count} processes train one run together"
        fix = "start each run with a torchrun of its own, as `gptopt submit` does with resources.gpus_per_run"
        yield Problem("--multirun", problem, fix)
