"""The YAML files of config folders and the defaults lists that tie them together: what is wrong with each file.

Input: folders and the names of options (`exp/mine`). Output: `Problem`s with file and line.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from gpt_opt.config.yaml_files import ConfigFile, Entry, kind_of
from gpt_opt.errors import Problem

Options = Callable[[str], Sequence[str]]
"""The options of a config group."""


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
            waiting += [name for entry in file.defaults for name in entry.names]
        return list(found.values())

    def problems(self, names: Iterable[str]) -> list[Problem]:
        """Returns what is wrong with each of the files behind some options by itself."""
        root = self.get(self._root)
        primary = [entry.group for entry in root.defaults if entry.says_group] if root else []
        files = self.behind(names)
        found = [problem for file in files for problem in file_problems(file, self._options, primary)]
        return found or list(self._circles(files))

    def _circles(self, files: Sequence[ConfigFile]) -> Iterator[Problem]:
        for file in files:
            for entry in file.defaults:
                for name in entry.names:
                    if any(other is file for other in self.behind([name])):
                        yield Problem(file.at_line(entry.line), f"{name} leads back to this file", "leave it out")

    def two_options(self, group: str, names: Iterable[str]) -> Problem | None:
        """Returns the problem of a defaults list that puts options of one group together; None where none does.

        Args:
            group: A group whose options have keys of different types.
            names: Options whose files, and those behind them, are looked at.
        """
        for file in self.behind(names):
            found: dict[str, int] = {}
            for entry in file.defaults:
                if entry.group == group:
                    found |= {option: entry.line for option in entry.options if option != "_self_"}
            if len(found) > 1:
                problem = f"the keys of {' and '.join(found)}, options of the group {group}, cannot be put together"
                return Problem(file.at_line(max(found.values())), problem, "name one of them")
        return None

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


def file_problems(file: ConfigFile, options: Options, primary: Iterable[str]) -> Iterator[Problem]:
    """Yields what is wrong with a file by itself.

    Args:
        file: The file.
        options: The options of a group.
        primary: Groups that the root config has an option of.
    """
    found = file.parsed[1]
    yield from found
    if found:
        return
    if file.name.startswith("exp/") and file.package != "_global_":
        problem = "must begin with the line `# @package _global_`: without it its keys are sought below exp"
        yield Problem(file.at_line(0), problem, "add it as the first line")
    if (listed := file.find(["defaults"])) and not isinstance(listed[1], yaml.SequenceNode):
        fix = "write a dash before each entry: `  - override /loss: sft`"
        yield Problem(
            file.at_line(listed[0].start_mark.line), f"defaults must be a list, but is {kind_of(listed[1])}", fix
        )
        return
    yield from _entry_problems(file, options, frozenset(primary))


def _entry_problems(file: ConfigFile, options: Options, primary: frozenset[str]) -> Iterator[Problem]:
    own: list[int] = []
    found = file.find(["defaults"])
    for entry in found[1].value if found else []:
        if isinstance(entry, yaml.MappingNode) and len(entry.value) != 1:
            names = ", ".join(str(key.value) for key, _ in entry.value) or "none"
            fix = "write each after a dash of its own"
            yield Problem(file.at_line(entry.start_mark.line), f"an entry must name one group, but names {names}", fix)
    for entry in file.defaults:
        if entry.text == "_self_" and not entry.says_group:
            own.append(entry.line)
        elif unknown := [word for word in entry.words if word not in ("override", "optional")]:
            near = difflib.get_close_matches(unknown[0], ["override", "optional"], n=1)
            fix = f"did you mean {near[0]}?" if near else "write override or optional there, or nothing"
            problem = f"an entry cannot begin with {unknown[0]!r} (in {entry.text!r})"
            yield Problem(file.at_line(entry.line), problem, fix)
        elif entry.says_group:
            yield from _group_problems(file, entry, options, primary)
        else:
            yield from _option_problems(file, entry, entry.options[0], options)
    if len(own) > 1:
        problem = f"_self_ must stand once in a defaults list, but also stands on line {own[0] + 1}"
        yield Problem(file.at_line(own[1]), problem, "leave one of them out")


def _group_problems(file: ConfigFile, entry: Entry, options: Options, primary: frozenset[str]) -> Iterator[Problem]:
    where, words, group, moved = file.at_line(entry.line), entry.words, entry.group, "@" in entry.text
    if not options(group):
        from_root = group.rpartition("/")[2]
        near = [from_root] if options(from_root) else difflib.get_close_matches(group, primary, n=1)
        fix = f"write /{near[0]}" if near else f"the groups are {', '.join(sorted(primary))}"
        yield Problem(where, f"{group!r} is no config group", fix)
    elif "override" in words and group not in primary and not group.startswith("hydra/"):
        yield Problem(where, f"the root config has no option of {group} to override", f"write /{group}")
    elif "override" not in words and not moved and group in primary and file.package == "_global_":
        fix = f"write `- override /{group}: {', '.join(entry.options)}`"
        yield Problem(where, f"the root config has an option of {group} already", fix)
    elif "optional" not in words:
        for option in entry.options:
            if option not in ("null", ""):
                yield from _option_problems(file, entry, option, options)


def _option_problems(file: ConfigFile, entry: Entry, option: str, options: Options) -> Iterator[Problem]:
    group, known = entry.group, options(entry.group)
    option = option.removesuffix(".yaml")
    if option in known or "${" in option or option == "???":
        return
    near = difflib.get_close_matches(option, known, n=1)
    fix = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}" if known else ""
    if option == "colorlog" and group.startswith("hydra/"):
        fix = "pip install 'gpt-opt[colorlog]'"
    yield Problem(file.at_line(entry.line), f"the group {group} has no option {option!r}", fix)
