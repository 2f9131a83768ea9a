"""The YAML files of a config folder as their author sees them: what is wrong in one, and the line that says a key.

Input: folders and the names of options (`exp/mine`). Output: `Problem`s with file and line. Hydra says neither.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
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

Options = Callable[[str], Sequence[str]]
"""The options of a config group."""


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
            return None, [Problem(self._at(data.count(b"\n", 0, error.start)), message, "save the file as UTF-8")]
        except yaml.YAMLError as error:
            return None, [self.yaml_problem(error)]
        except OSError as error:
            return None, [Problem(str(self.path), f"must be readable: {error.strerror}")]
        if node is None or node.tag.endswith(":null"):
            return None, []
        if not isinstance(node, yaml.MappingNode):
            message = f"must hold `key: value` lines, but holds {_kind(node)}"
            return None, [Problem(self._at(node.start_mark.line), message, _no_mapping(node))]
        return node, [*self._duplicates(node), *self._unreadable(node)]

    def yaml_problem(self, error: yaml.YAMLError) -> Problem:
        """Returns what YAML cannot read."""
        mark = getattr(error, "problem_mark", None)
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        if r"'\t'" in what:
            return Problem(self._at(mark.line if mark else 0), "is indented with a tab", "indent with blanks")
        if what.startswith("found duplicate key"):
            return Problem(self._at(mark.line if mark else 0), f"gives a key twice: {what}", "leave one of them out")
        context = getattr(error, "context", None)
        where = self._at(mark.line if mark else 0)
        fix = next((fix for part, fix in _HINTS if part in f"{context} {what}"), "")
        return Problem(where, f"is not YAML: {f'{context}: ' if context else ''}{what}", fix)

    def line(self, keys: Sequence[str]) -> int | None:
        """Returns the line, from 1, that gives the value of `keys`, or of as many of its last ones as stand here."""
        found = self.find(keys)
        return None if found is None else found[0].start_mark.line + 1

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
        """Returns `file:line key` of a config key that the file gives."""
        line = self.line(keys)
        return None if line is None else f"{shown(self.path)}:{line} {'.'.join(keys)}"

    @property
    def defaults(self) -> list[tuple[yaml.Node, yaml.Node | None]]:
        """The entries of the defaults list: an option of this folder alone, or a group and its option."""
        found = self.find(["defaults"])
        entries = found[1].value if found and isinstance(found[1], yaml.SequenceNode) else []
        return [
            (pair[0], pair[1]) if isinstance(entry, yaml.MappingNode) else (entry, None)
            for entry in entries
            for pair in (entry.value[:1] if isinstance(entry, yaml.MappingNode) else [(entry, None)])
        ]

    def group_of(self, entry: str) -> tuple[list[str], str]:
        """Returns the words before the group of an entry of the defaults list, and that group from the root."""
        *words, group = entry.split() or [""]
        group = group.partition("@")[0]
        if group.startswith("/"):
            return words, group[1:]
        if group.startswith("hydra/"):
            return words, group
        return words, "/".join(filter(None, [self.name.rpartition("/")[0], group]))

    def problems(self, options: Options, primary: Iterable[str]) -> Iterator[Problem]:
        """Yields what is wrong with the file by itself.

        Args:
            options: The options of a group.
            primary: Groups that the root config has an option of.
        """
        found = self.parsed[1]
        yield from found
        if found:
            return
        if self.name.startswith("exp/") and self.package != "_global_":
            problem = "must begin with the line `# @package _global_`: without it its keys are sought below exp"
            yield Problem(self._at(0), problem, "add it as the first line")
        if (listed := self.find(["defaults"])) and not isinstance(listed[1], yaml.SequenceNode):
            fix = "write a dash before each entry: `  - override /loss: sft`"
            yield Problem(
                self._at(listed[0].start_mark.line), f"defaults must be a list, but is {_kind(listed[1])}", fix
            )
            return
        yield from self._entry_problems(options, frozenset(primary))

    def _entry_problems(self, options: Options, primary: frozenset[str]) -> Iterator[Problem]:
        own: list[int] = []
        found = self.find(["defaults"])
        for entry in found[1].value if found else []:
            if isinstance(entry, yaml.MappingNode) and len(entry.value) != 1:
                names = ", ".join(str(key.value) for key, _ in entry.value) or "none"
                fix = "write each after a dash of its own"
                yield Problem(self._at(entry.start_mark.line), f"an entry must name one group, but names {names}", fix)
        for key, value in self.defaults:
            line, text = key.start_mark.line, str(key.value)
            if value is None and text == "_self_":
                own.append(line)
                continue
            words, group = self.group_of(text)
            if unknown := [word for word in words if word not in ("override", "optional")]:
                near = difflib.get_close_matches(unknown[0], ["override", "optional"], n=1)
                fix = f"did you mean {near[0]}?" if near else "write override or optional there, or nothing"
                yield Problem(self._at(line), f"an entry cannot begin with {unknown[0]!r} (in {text!r})", fix)
            elif value is None:
                yield from self._option_problems(line, *_parent(group), options)
            else:
                yield from self._group_problems(key, group, value, options, primary)
        if len(own) > 1:
            problem = f"_self_ must stand once in a defaults list, but also stands on line {own[0] + 1}"
            yield Problem(self._at(own[1]), problem, "leave one of them out")

    def _group_problems(
        self, key: yaml.Node, group: str, value: yaml.Node, options: Options, primary: frozenset[str]
    ) -> Iterator[Problem]:
        where, words, moved = self._at(key.start_mark.line), str(key.value).split()[:-1], "@" in str(key.value)
        chosen = [str(item.value) for item in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
        if not options(group):
            from_root = group.rpartition("/")[2]
            near = [from_root] if options(from_root) else difflib.get_close_matches(group, primary, n=1)
            fix = f"write /{near[0]}" if near else f"the groups are {', '.join(sorted(primary))}"
            yield Problem(where, f"{group!r} is no config group", fix)
        elif "override" in words and group not in primary and not group.startswith("hydra/"):
            yield Problem(where, f"the root config has no option of {group} to override", f"write /{group}")
        elif "override" not in words and not moved and group in primary and self.package == "_global_":
            fix = f"write `- override /{group}: {', '.join(chosen)}`"
            yield Problem(where, f"the root config has an option of {group} already", fix)
        elif "optional" not in words:
            for option in chosen:
                if option not in ("null", ""):
                    yield from self._option_problems(key.start_mark.line, group, option, options)

    def _option_problems(self, line: int, group: str, option: str, options: Options) -> Iterator[Problem]:
        known = options(group)
        option = option.removesuffix(".yaml")
        if option in known or "${" in option or option == "???":
            return
        near = difflib.get_close_matches(option, known, n=1)
        fix = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}" if known else ""
        if option == "colorlog" and group.startswith("hydra/"):
            fix = "pip install 'gpt-opt[colorlog]'"
        yield Problem(self._at(line), f"the group {group} has no option {option!r}", fix)

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
                yield Problem(self._at(line), problem, "leave one of them out, or put their keys together")
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
                yield Problem(self._at(node.start_mark.line), problem, "write ${a.key} or ${resolver:argument}")

    def _at(self, line: int) -> str:
        return f"{shown(self.path)}:{line + 1}"


class ConfigFiles:
    """The YAML files of config folders, each read once.

    Args:
        folders: Where they are sought, in this order.
        options: The options of a group, wherever they are defined.
        root: Name of the root config.
    """

    def __init__(self, folders: Sequence[Path], options: Options, root: str) -> None:
        self._folders, self._options, self._root = folders, options, root
        self._known: dict[str, ConfigFile | None] = {}

    def get(self, name: str) -> ConfigFile | None:
        """Returns the file of an option such as `exp/mine`, or None where there is none."""
        if name not in self._known:
            paths = [folder / f"{name.removesuffix('.yaml')}.yaml" for folder in self._folders]
            path = next((path for path in paths if path.is_file()), None)
            self._known[name] = None if path is None else ConfigFile(name, path)
        return self._known[name]

    def behind(self, names: Iterable[str]) -> list[ConfigFile]:
        """Returns the files of options and of all that their defaults lists name, each before those that it names."""
        found: dict[str, ConfigFile] = {}
        waiting = list(names)
        while waiting:
            name = waiting.pop(0)
            file = self.get(name)
            if file is None or name in found:
                continue
            found[name] = file
            for key, value in file.defaults:
                _, group = file.group_of(str(key.value))
                if value is None:
                    waiting.append(group)
                else:
                    chosen = value.value if isinstance(value, yaml.SequenceNode) else [value]
                    waiting += [f"{group}/{item.value}" for item in chosen]
        return list(found.values())

    def problems(self, names: Iterable[str]) -> list[Problem]:
        """Returns what is wrong with each of the files behind some options by itself."""
        root = self.get(self._root)
        primary = [root.group_of(str(key.value))[1] for key, value in root.defaults if value] if root else []
        files = self.behind(names)
        found = [problem for file in files for problem in file.problems(self._options, primary)]
        return found or list(self._circles(files))

    def _circles(self, files: Sequence[ConfigFile]) -> Iterator[Problem]:
        for file in files:
            for key, value in file.defaults:
                _, group = file.group_of(str(key.value))
                name = group if value is None else f"{group}/{value.value}"
                if any(other is file for other in self.behind([name])):
                    yield Problem(file._at(key.start_mark.line), f"{name} leads back to this file", "leave it out")

    def at(self, keys: Sequence[str], names: Iterable[str], containing: str = "") -> str | None:
        """Returns `file:line key` of the file behind some options that gives a key, the nearest to the user first.

        Args:
            keys: The config key, split.
            names: Options.
            containing: Text that the value must hold.
        """
        for file in self.behind(names):
            found = file.find(keys)
            if found is None or containing not in str(found[1].value):
                continue
            # The keys of a file are those of its group, or of the whole config: `name` in loss/ is not `model.name`.
            if found[2] == tuple(keys) or keys[0] == file.group:
                return file.at(keys)
        return None


def shown(path: Path) -> str:
    """Returns a path as messages show it: below the current directory, or else whole."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _parent(name: str) -> tuple[str, str]:
    group, _, option = name.rpartition("/")
    return group, option


def _kind(node: yaml.Node) -> str:
    kinds: dict[type[Any], str] = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}
    return kinds.get(type(node), f"the text {str(node.value)[:40]!r}")


def _no_mapping(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "leave the leading dashes out"
    key, sign, value = str(node.value).partition("=")
    return f"write `{key.replace('.', ': {', 1)}: {value}}}`" if sign and "." in key else "write `key: value`"
