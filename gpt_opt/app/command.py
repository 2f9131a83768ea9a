"""`command` of a `gptopt.toml` and a config -> the words of a process: for scripts that are not Hydra's.

The template is split once, as a shell does; then each value takes its place in its word and is never read again: no
shell sees it, whatever characters it has. The files of the application that the template names are those of its code,
wherever that lies: a run of a snapshot starts the script in it.

| in the template      | becomes                                                                                 |
|----------------------|-----------------------------------------------------------------------------------------|
| `{optimizer.lr}`     | the value: 0.001, true; the items of a list with commas between them                    |
| the same, all alone  | the items of a list are words of their own, as `nargs="+"` of argparse takes them       |
| `[--resume {path}]`  | left out if the value is null or false; if it is true `{...}` alone vanishes: `--flag`  |
| `{run_dir}`          | the directory of the run, as an absolute path                                           |
| `{{`, `}}`           | a brace                                                                                 |
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from gpt_opt.config.nested import flat_values
from gpt_opt.config.suggest import nearest
from gpt_opt.errors import ConfigError, Problem

RUN_DIR = "run_dir"
"""The one field of a command that is no key of its config."""

MISSING = "???"
"""A parameter that has no default, as Hydra writes it."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([\w-]+(?:\.[\w-]+)*)\}|[{}]|[^{}]+")
_WHERE = "gptopt.toml [app] command"
_BRACES = "write {key} for a value, {{ and }} for braces"


@dataclass(frozen=True)
class Word:
    """One word of the template: texts and keys, which alternate; a text comes first."""

    texts: tuple[str, ...]
    keys: tuple[str, ...]

    @property
    def is_value(self) -> bool:
        """Whether the word is one `{key}` and nothing else."""
        return len(self.keys) == 1 and not any(self.texts)

    def filled(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the words that this one becomes."""
        if self.is_value and isinstance(value := values[self.keys[0]], list):
            return [_text(item) for item in value]
        texts = [_text(values[key]) for key in self.keys]
        return ["".join(chain.from_iterable(zip(self.texts, [*texts, ""], strict=True)))]


@dataclass(frozen=True)
class Part:
    """Words that stand or fall together.

    Attributes:
        words: The words.
        optional: Whether they stood in brackets.
    """

    words: tuple[Word, ...]
    optional: bool

    def filled(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Yields the words with their values."""
        given = [values[key] for word in self.words for key in word.keys]
        if self.optional and any(value is None or value is False for value in given):
            return
        for word in self.words:
            if not (self.optional and word.is_value and values[word.keys[0]] is True):
                yield from word.filled(values)


@dataclass(frozen=True)
class Command:
    """A template, read."""

    parts: tuple[Part, ...]

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the config that it has a place for."""
        return frozenset(key for part in self.parts for word in part.words for key in word.keys) - {RUN_DIR}

    def unknown(self, config: Mapping[str, Any]) -> list[Problem]:
        """Returns where the command does not fit the keys of a config, whatever their values are."""
        flat = flat_values(config)
        taken = [Problem(RUN_DIR, "is the directory of the run, but the defaults have such a key", "rename that key")]
        return [*(taken if RUN_DIR in flat else []), *(_unknown(key, flat) for key in sorted(self.keys - flat.keys()))]

    def problems(self, config: Mapping[str, Any]) -> list[Problem]:
        """Returns what keeps the command from being filled with a config of plain containers."""
        required = {key for part in self.parts if not part.optional for word in part.words for key in word.keys}
        flat = flat_values(config)
        found = self.unknown(config)
        for key in sorted(self.keys & flat.keys()):
            if flat[key] == MISSING or (flat[key] is None and key in required):
                fix = f"give it a value: {key}=VALUE"
                if flat[key] is None:
                    fix += f", or put it in brackets in the command: [--{key.rpartition('.')[2]} {{{key}}}]"
                found.append(Problem(key, "must have a value, as the command takes it", fix))
            elif any("\0" in text for text in _texts(flat[key])):
                found.append(Problem(key, "must have no NUL character: no command line can carry it"))
        return found

    def words(self, config: Mapping[str, Any], run_dir: Path) -> list[str]:
        """Returns the words of a process.

        Raises:
            ConfigError: If a key is none of the config, or a value cannot be a word.
        """
        if found := self.problems(config):
            raise ConfigError(found)
        values = {**flat_values(config), RUN_DIR: str(run_dir.absolute())}
        return [text for part in self.parts for text in part.filled(values)]


def parse_command(template: str, root: Path | None = None) -> Command:
    """Reads a template.

    Args:
        template: The words.
        root: Folder of the code: words that are relative paths of files in it, `train.py`, are those files.

    Raises:
        ConfigError: If a quote, a brace or a bracket is left open.
    """
    try:
        split = shlex.split(template)
    except ValueError as error:
        raise _wrong(f"must be words as a shell splits them: {error}", "close the quote") from None
    parts: list[Part] = []
    opened: list[Word] | None = None
    for text in split:
        starts, ends = text.startswith("["), text.endswith("]")
        if starts and opened is not None:
            raise _wrong(
                f"must close a bracket before {text!r} opens the next one", "write [--flag {key}] [--other {k}]"
            )
        word = _word(text[starts : len(text) - ends] if starts or (ends and opened is not None) else text)
        if root is not None and not word.keys:
            word = Word((_in(root, word.texts[0]),), ())
        if starts:
            opened = []
        if opened is None:
            parts.append(Part((word,), optional=False))
            continue
        opened.append(word)
        if ends:
            parts.append(_bracketed(opened))
            opened = None
    if opened is not None or not parts:
        raise _wrong(
            "must close its bracket" if parts else "must have words", 'for example "python train.py --lr {lr}"'
        )
    return Command(tuple(parts))


def names_module(template: str, root: Path) -> bool:
    """Returns whether a template has a module of a folder behind `-m`, as Python and torchrun take one."""
    words = shlex.split(template)
    paths = (root.joinpath(*name.split(".")) for flag, name in pairwise(words) if flag == "-m")
    return any(path.with_suffix(".py").is_file() or path.is_dir() for path in paths)


def scalar_text(value: Any) -> str:
    """Returns a value as YAML has it: null, true, 0.1."""
    is_word = value is None or isinstance(value, bool)
    return {None: "null", True: "true", False: "false"}[value] if is_word else str(value)


def _word(text: str) -> Word:
    texts, keys = [""], []
    for found in _TOKEN.finditer(text):
        if found[0] in "{}":
            raise _wrong(f"has a brace that stands for nothing in {text!r}", _BRACES)
        if found[1] is None:
            texts[-1] += {"{{": "{", "}}": "}"}.get(found[0], found[0])
        else:
            keys.append(found[1])
            texts.append("")
    return Word(tuple(texts), tuple(keys))


def _in(root: Path, text: str) -> str:
    """Returns a word that is the path of a file in a folder as an absolute one, others as they are."""
    is_path = "/" in text or Path(text).suffix  # `train` may be a verb, whatever files there are
    return str(root / text) if is_path and (root / text).is_file() else text


def _bracketed(words: list[Word]) -> Part:
    if not any(word.keys for word in words):
        raise _wrong("must have a {key} in every pair of brackets", "write [--flag {key}]")
    return Part(tuple(words), optional=True)


def _wrong(message: str, fix: str) -> ConfigError:
    return ConfigError([Problem(_WHERE, message, fix)])


def _unknown(key: str, flat: Mapping[str, Any]) -> Problem:
    inside = [name for name in flat if name.startswith(f"{key}.")]
    near = nearest(key, flat)
    fix = f"did you mean {{{near}}}?" if near else f"the keys are {', '.join(sorted(flat)[:12]) or 'none'}"
    message = f"has {{{key}}}, which is no key of its config"
    if inside:
        message, fix = f"has {{{key}}}, which is a group", f"take one of {', '.join(inside[:12])}"
    return Problem(_WHERE, message, fix)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield scalar_text(value)


def _text(value: Any) -> str:
    return ",".join(_texts(value))
