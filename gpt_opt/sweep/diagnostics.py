"""All that is wrong with one sweep file, collected with its lines while the file is read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from gpt_opt.config.suggest import SYNONYMS
from gpt_opt.errors import Problem, SweepError
from gpt_opt.sweep.json_file import Document, Json, Path, shown
from gpt_opt.sweep.model import Metric, Resources, settings
from gpt_opt.sweep.overrides import check_key, to_override

Settings = TypeVar("Settings", Resources, Metric)


_EXAMPLES = {
    Metric: '{"name": "eval/loss", "goal": "minimize"}',
    Resources: '{"gpus_per_run": 1, "time_min": 240}',
}


class Report:
    """Collects the problems of a document, so that one run of the reader finds them all."""

    def __init__(self, document: Document) -> None:
        """Starts with what the parser of `document` found."""
        self._document = document
        self._found = list(document.problems)

    def __len__(self) -> int:
        """Returns the number of problems so far."""
        return len(self._found)

    def raise_if_any(self) -> None:
        """Raises what was found, in the order of the file.

        Raises:
            SweepError: Something was.
        """
        if self._found:
            problems = [problem for _, problem in sorted(self._found, key=lambda entry: entry[0])]
            raise SweepError(problems, ", nothing was started")

    def add(self, path: Path, message: str, fix: str = "") -> None:
        """Notes a problem with the value at `path`."""
        self._found.append((self._document.line(path), Problem(self._document.where(path), message, fix)))

    def line(self, path: Path) -> int:
        """Returns the line of `path`, for a message that points at a second line."""
        return self._document.line(path)

    def unknown(self, path: Path, what: str, valid: Iterable[str], fix: str = "") -> None:
        """Notes that the last key of `path` is none of the valid ones, and name the nearest."""
        names = list(valid)
        name = str(path[-1])
        ours = SYNONYMS.get(name.lower(), "").rpartition(".")[2]
        close = [ours] if ours in names else difflib.get_close_matches(name, names, n=1)
        near = f"did you mean {shown(close[0])}?" if close else f"valid are {', '.join(names) or 'none'}"
        self.add(path, f"{what} must be a known one, but got {shown(path[-1])}", "; ".join(filter(None, [near, fix])))

    def key(self, path: Path, key: str) -> bool:
        """Checks that a parameter key is one that Hydra can parse."""
        try:
            check_key(key)
        except SweepError as error:
            self._adopt(path, error)
            return False
        return True

    def value(self, path: Path, key: str, value: Json) -> None:
        """Checks that Hydra can be given the value."""
        try:
            to_override(key, value)
        except SweepError as error:
            self._adopt(path, error)

    def members(self, path: Path, value: Json, what: str, fix: str = "") -> dict[str, Json]:
        """Returns the members of an object; of anything else none, and note it."""
        if isinstance(value, dict):
            return value
        self.add(path, f"{what} must be an object {{...}}, but got {shown(value)}", fix)
        return {}

    def settings(self, path: Path, value: Json, cls: type[Settings]) -> dict[str, Json]:
        """Checks an object against the declared fields of `cls` and return what is given and right."""
        fields = settings(cls)
        what = cls.__name__.lower()
        members = self.members(path, value, what, f"write {_EXAMPLES[cls]}")
        for name in members:
            if name not in fields:
                self.unknown((*path, name), f"a key of {what}", fields)
        if isinstance(value, dict):
            for name in (name for name, (_, _, required) in fields.items() if required and name not in value):
                kind, doc, _ = fields[name]
                fix = f'add "{name}": {kind.expects}, as {_EXAMPLES[cls]}'
                self.add(path, f"{what} must have {shown(name)}, {doc}", fix)
        good: dict[str, Json] = {}
        for name, (kind, doc, _) in fields.items():
            if name in members and kind.accepts(members[name]):
                good[name] = members[name]
            elif name in members:
                message = f"{name} must be {kind.expects}, but got {shown(members[name])}"
                self.add((*path, name), message, f"it means: {doc}")
        return good

    def _adopt(self, path: Path, error: SweepError) -> None:
        for problem in error.problems:
            self.add(path, problem.message, problem.fix)
