"""The YAML files of a config folder as their author sees them: what is wrong in one, and the line that says a key.

Input: a file. Output: its keys and `Problem`s with file and line. Hydra says neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

from gpt_opt.errors import Problem

_HEADER = re.compile(r"^\s*#\s*@package[ \t]+(\S+)", re.M)
_COMMENT = re.compile(r"\s#\s*(.+)$")
_HINTS = (
    ("mapping values are not allowed", "indent it as the keys beside it, one `key: value` a line"),
    ("expected <block end>", "indent it as the keys beside it, one `key: value` a line"),
    ("could not find expected ':'", "write `key: value`, with a blank after the colon"),
    ("expected ',' or", "close the bracket, or put a comma between two values"),
    ("expected a single document", "leave out the line ---"),
    ("undefined alias", "put it in quotes: in YAML a leading * names an anchor"),
    ("could not determine a constructor", "leave the tag out, or put the text in quotes"),
    ("unexpected end of stream", "close the quote"),
    ("cannot start any token", "put it in quotes"),
)


@dataclass(frozen=True)
class Entry:
    """An entry of a defaults list.

    Attributes:
        text: The entry, up to its colon.
        line: Where it stands, counted from 0.
        words: The words before its group.
        group: Its config group, from the root.
        options: The options of that group.
        says_group: Whether it names the group; otherwise that is the one of the file itself, with one option.
    """

    text: str
    line: int
    words: list[str]
    group: str
    options: list[str]
    says_group: bool

    @property
    def names(self) -> list[str]:
        """Its options as they are found from the root."""
        return [f"{self.group}/{option}" if self.group else option for option in self.options]


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file of a config folder.

    Attributes:
        name: What defaults lists call it, `exp/mine`.
        path: The file.
    """

    name: str
    path: Path

    @cached_property
    def parsed(self) -> tuple[yaml.Node | None, list[Problem]]:
        """The root of the file, None where it cannot be read or is empty, and what is wrong with it as YAML."""
        try:
            data = self.path.read_bytes()
            node = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            message = f"must be UTF-8, but byte {error.start} is 0x{data[error.start]:02x}"
            return None, [Problem(self.at_line(data.count(b"\n", 0, error.start)), message, "save the file as UTF-8")]
        except yaml.YAMLError as error:
            return None, [self.yaml_problem(error)]
        except OSError as error:
            return None, [Problem(str(self.path), f"must be readable: {error.strerror}")]
        if node is None or node.tag.endswith(":null"):
            return None, []
        if not isinstance(node, yaml.MappingNode):
            message = f"must hold `key: value` lines, but holds {kind_of(node)}"
            return None, [Problem(self.at_line(node.start_mark.line), message, _no_mapping(node))]
        return node, [*self._duplicates(node), *self._unreadable(node)]

    def yaml_problem(self, error: yaml.YAMLError) -> Problem:
        """Returns what YAML cannot read."""
        mark = getattr(error, "problem_mark", None)
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        context, where = getattr(error, "context", None), self.at_line(mark.line if mark else 0)
        if r"'\t'" in what:
            return Problem(where, "is indented with a tab", "indent with blanks")
        if what.startswith("found duplicate key"):
            return Problem(where, f"gives a key twice: {what}", "leave one of them out")
        fix = next((fix for part, fix in _HINTS if part in f"{context} {what}"), "")
        return Problem(where, f"is not YAML: {f'{context}: ' if context else ''}{what}", fix)

    def find(self, keys: Sequence[str]) -> tuple[yaml.Node, yaml.Node, tuple[str, ...]] | None:
        """Returns the key, the value and the path below the root of `keys`, or of as many last ones as stand here."""
        for start in range(len(keys)):
            path, key, node = tuple(keys[start:]), None, self.parsed[0]
            for step in path:
                pairs = node.value if isinstance(node, yaml.MappingNode) else []
                key, node = next(((k, v) for k, v in pairs if k.value == step), (None, None))
            if key is not None and node is not None:
                return key, node, path
        return None

    def comment(self, keys: Sequence[str]) -> str:
        """Returns the comment beside `keys`, or beside as many of its last ones as stand here; empty without one."""
        if (found := self.find(keys)) is None:
            return ""
        key, value, _ = found
        line = key.start_mark.line
        end = value.end_mark if value.end_mark.line == line else key.end_mark
        match = _COMMENT.search(self.path.read_text(encoding="utf-8").split("\n")[line], end.column)
        return match[1].strip() if match else ""

    def path_of(self, value: str) -> tuple[str, ...] | None:
        """Returns the keys that lead to the first value with this text."""
        waiting: list[tuple[tuple[str, ...], yaml.Node | None]] = [((), self.parsed[0])]
        while waiting:
            path, node = waiting.pop(0)
            if isinstance(node, yaml.MappingNode):
                waiting += [((*path, str(key.value)), below) for key, below in node.value]
            elif node is not None and path and str(node.value) == value:
                return path
        return None

    def at(self, keys: Sequence[str]) -> str | None:
        """Returns `file:line key` of a config key that the file gives, or as many of its last parts."""
        found = self.find(keys)
        return None if found is None else f"{self.at_line(found[0].start_mark.line)} {'.'.join(keys)}"

    @property
    def defaults(self) -> list[Entry]:
        """The entries of the defaults list."""
        found = self.find(["defaults"])
        return [
            self._entry(str(key.value), key.start_mark.line, value)
            for node in (found[1].value if found and isinstance(found[1], yaml.SequenceNode) else [])
            for key, value in (node.value[:1] if isinstance(node, yaml.MappingNode) else [(node, None)])
        ]

    def _entry(self, text: str, line: int, value: yaml.Node | None) -> Entry:
        *words, name = text.split() or [""]
        name = name.partition("@")[0]
        if not name.startswith(("/", "hydra/")):
            name = "/".join(filter(None, [self.name.rpartition("/")[0], name]))
        name = name.removeprefix("/")
        if value is None:
            group, _, option = name.rpartition("/")
            return Entry(text, line, words, group, [option], False)
        chosen = value.value if isinstance(value, yaml.SequenceNode) else [value]
        return Entry(text, line, words, name, [str(item.value) for item in chosen], True)

    @property
    def group(self) -> str:
        """The top-level key that the keys of the file are below; empty where they are top-level keys themselves."""
        package = self.package or self.name.rpartition("/")[0].replace("/", ".")
        return "" if package == "_global_" else package.partition(".")[0]

    @property
    def package(self) -> str:
        """Where the header says that the keys of the file belong; empty without a header."""
        match = _HEADER.search(self.path.read_bytes()[:512].decode("utf-8", "replace"))
        return match[1] if match else ""

    def _duplicates(self, node: yaml.Node) -> Iterator[Problem]:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from self._duplicates(item)
        if not isinstance(node, yaml.MappingNode):
            return
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line
            if (before := first.setdefault(str(key.value), line)) != line:
                problem = f"a key must be given once, but {str(key.value)!r} also stands on line {before + 1}"
                yield Problem(self.at_line(line), problem, "leave one of them out, or put their keys together")
            yield from self._duplicates(value)

    def _unreadable(self, node: yaml.Node) -> Iterator[Problem]:
        """Yields the interpolations that OmegaConf cannot parse."""
        if isinstance(node, yaml.CollectionNode):
            for item in node.value:
                for part in item if isinstance(item, tuple) else (item,):
                    yield from self._unreadable(part)
        elif "${" in str(node.value):
            try:
                parse(str(node.value))
            except GrammarParseError as error:
                problem = f"{str(node.value)!r} is no interpolation: {error}"
                yield Problem(self.at_line(node.start_mark.line), problem, "write ${a.key} or ${resolver:argument}")

    def at_line(self, line: int) -> str:
        """Returns `file:line` of a line counted from 0, as YAML does."""
        return f"{shown(self.path)}:{line + 1}"


def shown(path: Path) -> str:
    """Returns a path as messages show it: below the current directory, or else whole."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def kind_of(node: yaml.Node) -> str:
    """Returns what a message calls a node."""
    kinds: dict[type[Any], str] = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}
    return kinds.get(type(node), f"the string {str(node.value)[:40]!r}")


def _no_mapping(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "leave the leading dashes out"
    key, sign, value = str(node.value).partition("=")
    return f"write `{key.replace('.', ': {', 1)}: {value}}}`" if sign and "." in key else "write `key: value`"
