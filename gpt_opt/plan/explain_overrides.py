"""Why Hydra refuses one override string, and what to write in its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import ConfigKeyError, InterpolationResolutionError

from gpt_opt.config.explain import keys_like
from gpt_opt.config.overrides import parse_override
from gpt_opt.config.suggest import UNKNOWN_KEY, unknown_key
from gpt_opt.errors import Problem, SweepError
from gpt_opt.plan.config_source import ConfigSource, key_of
from gpt_opt.plan.explain_errors import YamlErrors, first_lines, full_key, interpolation_problem
from gpt_opt.plan.multirun import INSTALL_OPTUNA
from gpt_opt.sweep.overrides import shell_word, to_override


def override_problems(
    text: str, error: Exception, groups: Sequence[str], source: ConfigSource, files: YamlErrors
) -> list[Problem]:
    """Returns what is wrong with an override string.

    Args:
        text: The override.
        error: What Hydra raised for it.
        groups: The overrides that chose options before it.
        source: The config folder.
        files: Explains the files of that folder.
    """
    if source.exists(text):
        return _option_problems(text, error, groups, source, files)
    key, value = key_of(text), text.partition("=")[2]
    if text.startswith("~") and source.options(key):
        return [Problem(key, "has no option here, so none can be deleted", f"leave {text} out")]
    if key and (options := source.options(key)):
        fix = INSTALL_OPTUNA if text.startswith("hydra/sweeper") and text.endswith("=optuna") else ""
        problem = f"must be one of {', '.join(options)}, but is {value!r}"
        return [Problem(key, problem, fix or _option_meant(text, options, source.app.hub_names))]
    if re.fullmatch(r"\S+\.(json|ya?ml)", text):
        return [file_problem(text, source)]
    if "=" not in text.strip("=") and not text.startswith("~"):
        problem = "is no setting: those are written KEY=VALUE, without blanks around the ="
        return [Problem(text or "''", problem, f"write {text}=VALUE" if key in source.valid_keys(groups) else "")]
    if not parses(text):
        return [Problem(text, f"is not a Hydra override: {first_lines(error)}", _quoted(text))]
    return [_value_problem(text, error, groups, source)]


def needed(key: str, source: ConfigSource) -> Problem:
    """Returns the problem of an override that deletes a key, or the option of a group, which every run reads."""
    options = f"another option ({', '.join(found)})" if (found := source.options(key)) else "another value"
    return Problem(key, "is needed, so it cannot be deleted", f"give it {options}, or leave it as it is")


def parses(text: str) -> bool:
    """Returns whether a string is an override to Hydra's grammar."""
    try:
        parse_override(text)
    except HydraException:
        return False
    return True


def file_problem(text: str, source: ConfigSource) -> Problem:
    """Returns the problem of a file where an override is expected."""
    name = Path(text).stem
    group = next((group for group in source.app.experiments if name in source.options(group)), None)
    if text.endswith(".json"):
        fix = f"a sweep file is for `gptopt plan {text}` and `gptopt submit {text}`"
    else:
        fix = f"write +{group}={name}" if group else source.app.file_hint(text)
    return Problem(text, "is a file, but settings are written KEY=VALUE", fix)


def _option_problems(
    text: str, error: Exception, groups: Sequence[str], source: ConfigSource, files: YamlErrors
) -> list[Problem]:
    """Returns what is wrong with the choice of an option that there is, or with its file."""
    key = key_of(text)
    other = next((item for item in groups if key_of(item) == key), None)
    if (other and f"Multiple values for {key}" in str(error)) or f"override '{key}'" in str(error):
        return [_wrongly_signed(key, text, other)]
    if located := files.interpolation(source.names([text]), error, source.valid_keys([*groups, text])):
        return [located]
    return files.problems(f"{key}/{text.partition('=')[2]}", [*groups, text], error)


def _value_problem(text: str, error: Exception, groups: Sequence[str], source: ConfigSource) -> Problem:
    """Returns what is wrong with an override of a value, which Hydra can parse but not apply."""
    key, value = key_of(text), text.partition("=")[2]
    if "Ambiguous value" in str(error):
        fix = f"to train each of them: -m {text}; as one list: {key}=[{value}]; as a string: \"{key}='{value}'\""
        return Problem(key, f"has several values, {value}, but without -m there is one run", fix)
    unknown = isinstance(error, OSError) or isinstance(error.__cause__, ConfigKeyError)
    if unknown or "Could not override" in str(error):
        inside = full_key(error.__cause__ or error)  # loss={betta: 1}
        return _unknown(text, inside if inside.startswith(f"{key}.") else key, groups, source)
    if "Could not append" in str(error):
        return Problem(key, "has a value already, so none can be added", f"write {text.lstrip('+')}")
    if text.startswith("~"):
        if key not in source.valid_keys(groups) and not key.startswith("hydra."):
            return _unknown(text, key, groups, source)
        return needed(key, source)
    if isinstance(error, InterpolationResolutionError):
        return Problem(text, *interpolation_problem(error, source.valid_keys(groups)))
    several = re.fullmatch(r"\[(.+)\]", value)
    fix = f"to train each: -m {key}={several[1]}" if several else ""
    return Problem(text, first_lines(error.__cause__ or error), fix)


def _unknown(text: str, key: str, groups: Sequence[str], source: ConfigSource) -> Problem:
    config = source.compose(groups)
    node, _, value = text.partition("._target_=")
    child = config._get_node(node, validate_access=False)
    if isinstance(child, Node) and child._is_none():
        return Problem(key, f"cannot be set alone while {node} is null", f"write '{node}={{_target_: {value}}}'")
    above = OmegaConf.select(config, key.rpartition(".")[0])
    if isinstance(above, DictConfig) and not above and OmegaConf.get_type(above) is dict and key.count(".") > 1:
        return Problem(key, UNKNOWN_KEY, f"of keys of your own the first are added by +: +{text.lstrip('+')}")
    return unknown_key(key, keys_like(config, key), text.partition("=")[2])


def _option_meant(text: str, options: Sequence[str], hub_names: Mapping[str, str]) -> str:
    """Returns what was meant by an option that a group does not have; for some perhaps a name on the hub."""
    group, _, value = text.partition("=")
    if group in hub_names and ("/" in value or Path(value).suffix):
        return f"write {hub_names[group]}{value}"
    near = difflib.get_close_matches(value.lower(), options, n=1)
    meant = f"did you mean {group}={near[0]}?" if near else ""
    if group in hub_names and value:
        return f"{meant} one of the hub, or a path, is {hub_names[group]}{value}".strip()
    return meant


def _quoted(text: str) -> str:
    """Returns how a shell is told an override whose value Hydra is to take as it stands."""
    key, _, value = text.partition("=")
    try:
        meant = to_override(key, value)
    except SweepError:
        return "quote the value: \"key='value'\""
    word = shell_word(meant)
    return "quote it: " + (word if set(value) & set("'\"$`\\!") or word.startswith("$") else f'"{meant}"')


def _wrongly_signed(key: str, text: str, other: str | None) -> Problem:
    """Returns the problem of an option that is added to a group that has one, or chosen in a group that has none."""
    if other is not None:
        return Problem(key, f"takes one option, but {other!r} and {text!r} were given", "leave one of them out")
    if text.startswith("+"):
        return Problem(key, f"has an option already, so none can be added by {text!r}", f"write {text.lstrip('+')}")
    return Problem(key, f"has no option by default that {text!r} could replace", f"add one: +{text}")
