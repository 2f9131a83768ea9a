"""What Hydra cannot compose because of a YAML file: the problems of that file, each with its line.

Hydra stops at the first mistake of a file. Here that key is left out and Hydra asked again, until nothing is wrong.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import split_key
from omegaconf.errors import InterpolationKeyError, UnsupportedInterpolationType

from gpt_opt.config.defaults_lists import ConfigFiles
from gpt_opt.config.explain import flat_keys
from gpt_opt.config.suggest import UNKNOWN_KEY, suggestion
from gpt_opt.config.yaml_files import ConfigFile, shown
from gpt_opt.errors import Problem
from gpt_opt.plan.compose.hydra import load, loader
from gpt_opt.plan.config_source import ConfigSource

_IN_FILE = re.compile(r"In '([^']+)'")
_KEY = re.compile(r"^\s*full_key: (\S+)$", re.M)
_SCALAR = re.compile(r"is not a subclass of \w+\. value: (.*)")
_VARIABLE = re.compile(r"Environment variable '([^']+)' not found")
_LOST = re.compile(r"Interpolation key '([^']+)' not found")
_TYPES = {"Integer": "an integer", "Float": "a number", "Boolean": "true or false"}
_CONVERSION = re.compile(rf"Value '([^\n]*?)'(?: of type '\w+')? could not be converted to ({'|'.join(_TYPES)})")
_WORDS = {
    re.compile(r"(?:field|child) '[^']*' is not Optional"): "must have a value, but is null",
    re.compile(r"Invalid value assigned: (\w+) is not a ListConfig, list.*"): r"must be a list, but is of type \1",
    re.compile(r"Cannot assign (\w+) to Dict\[.*\]"): r"must hold keys of its own, but is of type \1",
    re.compile(r"Index '(.*)' \(str\) is not an int"): r"is a list, which has no key '\1'",
}
"""What to say in place of OmegaConf's words about values of the wrong type."""

_MOST = 50


class YamlErrors:
    """Explains what is wrong with the files of a config folder.

    Args:
        source: The config folder.
    """

    def __init__(self, source: ConfigSource) -> None:
        self._root, self._dropped = source.configs.name, defaultdict[str, list[tuple[str, ...]]](list)
        # Not stored: what is composed here lacks the keys that are wrong.
        self._loader = loader(replace(source.configs, is_stored=False))
        repository: Any = self._loader.repository
        self._read, repository.load_config = repository.load_config, self._read_without
        searched = self._loader.config_search_path.get_path()
        folders = [item.path.removeprefix("file://") for item in searched if item.path]
        self.files = ConfigFiles([Path(item) for item in folders if "://" not in item], source.options, self._root)

    def root_problems(self) -> list[Problem]:
        """Returns what is wrong with the files that every run is composed from."""
        self._dropped.clear()
        try:
            self._load([])
        except Exception as error:  # whatever Hydra raises is about a file: there is nothing else
            return self.problems(self._root, [], error)
        return []

    def problems(self, name: str, overrides: Sequence[str], error: Exception) -> list[Problem]:
        """Returns what is wrong with an option's file, or with those that it names.

        Args:
            name: The option, `exp/mine`.
            overrides: Override strings that choose it.
            error: What Hydra raised for them.
        """
        if found := self.files.problems([name]):
            return found
        self._dropped.clear()
        found, unknown = [], []
        names = [name, self._root]
        for _ in range(_MOST):
            located = self._locate(error)
            if located is None:
                found.append(self._whole(name, error, names))
                break
            file, path = located
            self._dropped[file.name].append(path)
            where = file.at(path) or shown(file.path)
            if " not in '" in str(error):
                unknown.append((where, full_key(error), _value(file, path)))
            else:
                found.append(Problem(where, *_mismatch(error)))
            try:
                self._load(overrides)
                break
            except Exception as another:  # the next mistake
                error = another
        return [*found, *self._unknown(unknown, overrides)]

    def _unknown(self, unknown: Sequence[tuple[str, str, str]], overrides: Sequence[str]) -> Iterator[Problem]:
        try:
            config = self._load(overrides)
        except Exception:  # said already
            config = OmegaConf.create()
        valid = list(flat_keys(cast("dict[str, Any]", OmegaConf.to_container(config))))
        for where, key, value in unknown:
            whole = "" if where.endswith(key) else f" ({key})"
            if key in valid:  # written as one word in the file
                above, _, last = key.rpartition(".")
                fix = f"write `{above.replace('.', ': {')}: {{{last}: {value}}}{'}' * above.count('.')}`"
                yield Problem(where, "is one key to YAML, not a path: a dot does not divide it", fix)
            else:
                yield Problem(where, f"{UNKNOWN_KEY}{whole}", suggestion(key, valid, value))

    def interpolation(self, names: Sequence[str], error: Exception, valid: Sequence[str]) -> Problem | None:
        """Returns the problem of an interpolation that cannot be resolved, or None where no file says it.

        Args:
            names: The options that were chosen.
            error: What OmegaConf raised.
            valid: The keys that there are.
        """
        key = full_key(error)
        where = self.files.at(split_key(key), [*names, self._root], "${") if key else None
        return None if where is None else Problem(where, *interpolation_problem(error, valid))

    def _read_without(self, config_path: str) -> Any:
        """Returns a config as Hydra's repository does, without the keys that were dropped."""
        found = self._read(config_path)
        for *above, last in self._dropped[config_path]:
            node = found.config
            for step in above:
                node = node._get_node(step)
            del node[last]
        return found

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        return load(self._loader, self._root, overrides, from_shell=False)

    def _locate(self, error: Exception) -> tuple[ConfigFile, tuple[str, ...]] | None:
        """Returns the file and the path in it of the key that a merge failed at."""
        named, key = _IN_FILE.search(str(error)), full_key(error)
        file = self.files.get(named[1]) if named else None
        if file is None:
            return None
        scalar = _SCALAR.search(str(error))
        path = file.path_of(scalar[1]) if scalar else None
        for keys in ([key], split_key(key)) if key else ():
            found = file.find(keys)
            path = path or (found[2] if found else None)
        return None if path is None or path in self._dropped[file.name] else (file, path)

    def _whole(self, name: str, error: Exception, names: Sequence[str]) -> Problem:
        """Returns a mistake that has no key."""
        mark = getattr(error, "problem_mark", None)
        named = _IN_FILE.search(str(error))
        if named and "Merge error" in str(error):
            group = named[1].removeprefix("schema/").rpartition("/")[0]
            if problem := self.files.two_options(group, names):
                return problem
        file = self.files.get(named[1] if named else name) or self.files.get(name)
        for other in self.files.behind(names):
            if mark is not None and Path(str(mark.name)).resolve() == other.path.resolve():
                file = other
        if file is None:
            return Problem(name, first_lines(error))
        if isinstance(error, yaml.YAMLError):
            return file.yaml_problem(error)
        return Problem(shown(file.path), first_lines(error))


def interpolation_problem(error: Exception, valid: Sequence[str]) -> tuple[str, str]:
    """Returns what an interpolation does wrong, and what to do."""
    if isinstance(error, InterpolationKeyError) and (lost := _LOST.search(str(error))):
        return f"names a key that does not exist: ${{{lost[1]}}}", suggestion(lost[1], valid)
    if variable := _VARIABLE.search(str(error)):
        fix = f"export {variable[1]}=..., or write ${{oc.env:{variable[1]},DEFAULT}}"
        return f"needs the environment variable {variable[1]}, which is not set", fix
    if isinstance(error, UnsupportedInterpolationType):
        name = str(error).splitlines()[0].rpartition(" ")[2]
        return f"names a resolver that does not exist: ${{{name}:}}", "an environment variable is ${oc.env:NAME}"
    return first_lines(error), ""


def _mismatch(error: Exception) -> tuple[str, str]:
    """Returns what is wrong with a value of the wrong type, and what to do."""
    if scalar := _SCALAR.search(str(error)):
        return f"must hold keys of its own, but is {scalar[1]!r}", "write `key: value` lines below it, or {key: value}"
    text = first_lines(error)
    quoted = "YAML reads yes, no, on and off as true and false: put it in quotes" if "'False'" in text else ""
    return text, quoted


def _value(file: ConfigFile, path: tuple[str, ...]) -> str:
    found = file.find(path)
    return str(found[1].value) if found and isinstance(found[1], yaml.ScalarNode) else ""


def full_key(error: BaseException) -> str:
    """Returns the config key that OmegaConf says an error is about, or an empty string."""
    found = _KEY.search(str(error))
    return found[1] if found else ""


def first_lines(error: BaseException) -> str:
    """Returns the message without where Hydra was and OmegaConf's closing lines about the object."""
    lines = [line.strip() for line in str(error).splitlines()]
    drop = ("full_key:", "object_type=", "reference_type=", "See https://")
    kept = [line for line in lines if line and not line.startswith(drop) and "raised while composing" not in line]
    text = _CONVERSION.sub(_conversion, "; ".join(kept))
    for pattern, words in _WORDS.items():
        text = pattern.sub(words, text)
    return text or type(error).__name__


def _conversion(found: re.Match[str]) -> str:
    value, wanted = found[1], found[2]
    whole = wanted == "Integer" and re.fullmatch(r"-?\d+\.0", value)
    return f"must be {_TYPES[wanted]}, but is {value!r}" + (f": write {value[:-2]}" if whole else "")
