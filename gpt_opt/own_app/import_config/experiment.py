"""A post-training YAML as an experiment file of hydra_conf/exp/: written, composed and checked before it is shown."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from gpt_opt.config.explain import comment_of
from gpt_opt.config.nested import set_at
from gpt_opt.config.yaml_files import ConfigFile
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.own_app.app import own_app
from gpt_opt.own_app.import_config.reader import Imported
from gpt_opt.own_app.import_config.sources import LISTED
from gpt_opt.own_app.import_config.translate import import_post_training
from gpt_opt.plan.compose.composer import Composed
from gpt_opt.plan.validate import PointChecker
from gpt_opt.sweep.overrides import to_override

_TRIAL = "gptopt_import_config"
"""Name of the experiment file that is composed to check it."""

_HERE = ("logging.logging_params.report_to", "data.dataset.path", "training.finetuning.resume_from_checkpoint")
"""Keys whose problems are of this machine and not of the file: a package or a file that is not there."""

_PLAIN = re.compile(r"[A-Za-z][\w./-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"})


@dataclass(frozen=True)
class Experiment:
    """An experiment file that composes and passes all checks.

    Attributes:
        text: The file.
        without_equal: What of the post-training YAML has no equal here, with its value.
        interpreted: What was not taken word by word.
        to_do: What this machine lacks for it.
    """

    text: str
    without_equal: tuple[str, ...]
    interpreted: tuple[str, ...]
    to_do: tuple[Problem, ...]


def import_config(file: Path, name: str, config_dir: Path, model_index: int | None = None) -> Experiment:
    """Reads a post-training YAML and returns the experiment that is the same training.

    Args:
        file: The YAML.
        name: Name of the experiment.
        config_dir: The folder hydra_conf.
        model_index: Which of its models to take alone; None takes all.

    Raises:
        ConfigError: If the file is no YAML, or no training that there is here; all problems.
    """
    read = ConfigFile(name, file)
    if problems := read.parsed[1]:
        raise ConfigError(problems)
    tree = yaml.load(file.read_text(encoding="utf-8"), Loader=get_yaml_loader())
    if not isinstance(tree, Mapping):
        raise ConfigError([Problem(str(file), "must hold `key: value` lines, but is empty")])
    try:
        imported = import_post_training(tree, model_index)
    except ConfigError as error:
        raise ConfigError([_located(problem, read) for problem in error.problems]) from error
    text = _text(imported, file, name, config_dir)
    problems = _problems(text, imported, config_dir)
    if wrong := [problem for problem in problems if problem.where not in _HERE]:
        raise ConfigError(wrong, f" in the experiment made of {file}")
    return Experiment(text, tuple(imported.without_equal), tuple(imported.interpreted), tuple(problems))


def _located(problem: Problem, file: ConfigFile) -> Problem:
    where = file.at(problem.where.split("."))
    return Problem(where, problem.message, problem.fix) if where else problem


def _problems(text: str, imported: Imported, config_dir: Path) -> list[Problem]:
    """Returns what is wrong with an experiment; of one that cannot be composed, as its keys say on a command line."""
    checker = PointChecker(own_app(config_dir))
    with tempfile.TemporaryDirectory(prefix="gpt-opt-") as folder:
        (Path(folder) / "exp").mkdir()
        (Path(folder) / "exp" / f"{_TRIAL}.yaml").write_text(text, encoding="utf-8")
        overrides = [to_override("hydra.searchpath", [f"file://{folder}"]), f"+exp={_TRIAL}"]
        result = next(checker.composer.compose_many([overrides]))
        if isinstance(result, Composed):
            found = checker.problems(result)
            return [Problem(item.where.rpartition(" ")[2], item.message, item.fix) for item in found]  # no file of ours
    overrides = [to_override(group, option) for group, option in imported.options.items()]
    overrides += [to_override(key, value) for key, value in imported.settings.items()]
    again = next(checker.composer.compose_many([overrides]))
    return checker.problems(again) or [Problem("the experiment", f"cannot be composed: {result.error}")]


def _text(imported: Imported, file: Path, name: str, config_dir: Path) -> str:
    """Returns the experiment file, a comment beside every key."""
    options = imported.options
    lines = [
        "# @package _global_",
        f"# {file.name} translated to the keys of this project by `gptopt import-config`.",
        "defaults:",
    ]
    lines += [f"  - override /{group}: {option}" for group, option in options.items()]
    lines += ["  - _self_", "", f"exp_name: {_value(name)} # for people; changes nothing"]
    tree: dict[str, Any] = {}
    for key, value in imported.settings.items():
        set_at(tree, key, value)
    if "models" in tree:
        chosen = "${listed_model:${models},${model_index},%s}"
        tree["model"] = {key: _Raw(chosen % key) for key in LISTED}
        tree["hydra"] = {"sweeper": {"params": {"model_index": _Raw("${model_indices:${models}}")}}}
    lines += _lines(tree, "", config_dir, options)
    return "\n".join(lines) + "\n"


class _Raw(str):
    """A string that stands in the file as it is."""


def _lines(tree: Mapping[str, Any], above: str, config_dir: Path, options: Mapping[str, str]) -> Iterator[str]:
    indent = "  " * above.count(".")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(value, f"{above}{key}.", config_dir, options)
        else:
            comment = "" if above.startswith("hydra.") else comment_of(f"{above}{key}", config_dir, _choices(options))
            yield f"{indent}{key}: {_value(value)}" + (f" # {comment}" if comment else "")


def _choices(options: Mapping[str, str]) -> dict[str, str]:
    return {"training": "default", "logging": "default", "paths": "default", "loss": "dpo", **options}


def _value(value: Any) -> str:
    """Returns a value as YAML that every reader takes for it."""
    if isinstance(value, _Raw) or (isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)
