"""Strict JSON with positions: every mistake is reported with its file and line.

Stricter than Python's json: duplicate keys, NaN, Infinity, numbers beyond a float, bytes that are not UTF-8 and a byte
order mark are errors. Whole numbers stay exact and floats keep every bit. A good file is parsed by json.loads; only a
bad one, or a question for a position, runs the slower scanner below, which reads the same language and also keeps going
after a mistake that is not one of syntax.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import NoReturn, TypeAlias

from gpt_opt.errors import Problem, SweepError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Path: TypeAlias = tuple[str | int, ...]
"""The way from the root of a document to a value: object keys and list indexes."""

MAX_DEPTH = 100
"""Deepest nesting of a document."""

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?![0-9A-Za-z_.+-])")
_NAME = re.compile(r"-?[A-Za-z_][A-Za-z0-9_]*")
_LITERALS: dict[str, Json] = {"true": True, "false": False, "null": None}
_NOT_JSON = {"NaN", "Infinity", "-Infinity"}
_HINTS = (
    (re.compile(r"//|/\*|#"), "JSON has no comments: remove it"),
    (re.compile(r"'"), 'write strings in double quotes: "..."'),
    (re.compile(r"True|False|None"), "JSON writes true, false and null"),
    (re.compile(r"[+.-]?[0-9.]|-"), "JSON writes numbers as 10, -2, 0.5 or 1e-4: no leading zeros, + or bare points"),
    (re.compile(r'"'), 'close the string on its line; inside write \\n, \\t, \\\\ and \\" for those characters'),
    (re.compile(r"[A-Za-z_]"), "put it in double quotes"),
    (re.compile(r"[\]}]"), "remove the comma before it, or give what is missing"),
    (re.compile(r"\Z"), "the file ends too early: close what is open"),
)


@dataclass(frozen=True)
class Document:
    """A parsed JSON file.

    Attributes:
        source: The file name for messages, as the caller gave it.
        text: The whole text.
        value: The value; of a duplicate key the first one, and null for a number that is none.
        problems: What is wrong though the syntax is right (duplicate keys, NaN, numbers out of range), with the line.
    """

    source: str
    text: str
    value: Json
    problems: tuple[tuple[int, Problem], ...] = ()

    def line(self, path: Path) -> int:
        """Return the line (from 1) of the object key that `path` ends with, or of the list item."""
        return self.position(path)[0]

    def position(self, path: Path, *, of_value: bool = False) -> tuple[int, int]:
        """Return line and column, both from 1, of a key (or list item), or of the value behind the key.

        Raises:
            KeyError: The document has no such path.
        """
        return _line_and_column(self._line_starts, self._offsets[path][1 if of_value else 0])

    def where(self, path: Path) -> str:
        """Return `file:line key`, with the last object key of the path; `file:line` for the root."""
        keys = [step for step in path if isinstance(step, str)]
        return f"{self.source}:{self.line(path)}" + (f" {keys[-1]}" if keys else "")

    def key_lines(self) -> dict[str, int]:
        """Return the line of the first appearance of every object key, wherever it stands."""
        lines: dict[str, int] = {}
        for path in self._offsets:
            if path and isinstance(path[-1], str):
                lines.setdefault(path[-1], self.line(path))
        return lines

    @cached_property
    def _line_starts(self) -> list[int]:
        return _line_starts(self.text)

    @cached_property
    def _offsets(self) -> dict[Path, tuple[int, int]]:
        scanner = _Scanner(self.source, self.text)
        scanner.scan()
        return scanner.offsets


def read_json(path: str | FilePath) -> Document:
    """Read a JSON file.

    Raises:
        SweepError: The file cannot be read, is not UTF-8, or is not JSON. Mistakes that leave the syntax intact do not
            raise: they are in `Document.problems`, so that the caller reports them with its own.
    """
    try:
        data = FilePath(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        others = [other.name for other in FilePath(path).parent.glob("*.json")]
        near = difflib.get_close_matches(FilePath(path).name, others, 1)
        fix = f"did you mean {FilePath(path).with_name(near[0])}?" if near else "check the path"
        raise SweepError([Problem(str(path), f"the file must be readable: {reason}", fix)]) from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"the file must be UTF-8, but byte {error.start} is 0x{data[error.start]:02x} ({error.reason})"
        raise SweepError([Problem(f"{path}:{line}", message, "save it as UTF-8")]) from None
    return parse_json(text, str(path))


def parse_json(text: str, source: str = "<text>") -> Document:
    """Parse JSON text; `source` stands for the file name in messages.

    Raises:
        SweepError: As for `read_json`.
    """
    try:
        value: Json = json.loads(text, object_pairs_hook=_unique, parse_constant=_reject, parse_float=_finite)
        if not _deeper_than(MAX_DEPTH, value):
            return Document(source, text, value)
    except (ValueError, RecursionError):
        pass  # the scanner says what is wrong, and where
    scanner = _Scanner(source, text)
    value = scanner.scan()
    return Document(source, text, value, tuple(scanner.problems))


def shown(value: Json, limit: int = 60) -> str:
    """Return a value as JSON text for a message, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _reject(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _deeper_than(limit: int, value: Json) -> bool:
    level = _containers([value])
    for _ in range(limit):
        if not level:
            return False
        level = [inner for node in level for inner in _containers(node.values() if isinstance(node, dict) else node)]
    return bool(level)


def _containers(values: Iterable[Json]) -> list[dict[str, Json] | list[Json]]:
    return [value for value in values if isinstance(value, dict | list)]


def _line_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer("\n", text))]


def _line_and_column(starts: list[int], offset: int) -> tuple[int, int]:
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


class _Scanner:
    """A recursive-descent parser of JSON that notes the offset of every key and value."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.text = text
        self.at = 0
        self.offsets: dict[Path, tuple[int, int]] = {}
        self.problems: list[tuple[int, Problem]] = []
        self._starts = _line_starts(text)

    def scan(self) -> Json:
        """Parse the whole text.

        Raises:
            SweepError: The text is not JSON.
        """
        if self.text.startswith("\ufeff"):
            self._fail("the file must not begin with a byte order mark", "save it as UTF-8 without one")
        self._skip()
        self.offsets[()] = (self.at, self.at)
        value = self._value(())
        self._skip()
        if self.at < len(self.text):
            self._expected("the end of the file", "a file holds one value: remove what follows it")
        return value

    def _value(self, path: Path) -> Json:
        first = self.text[self.at : self.at + 1]
        if first in ("{", "[") and len(path) >= MAX_DEPTH:
            self._fail(f"the file can be nested at most {MAX_DEPTH} deep", "flatten it")
        if first == "{":
            return self._object(path)
        if first == "[":
            return self._array(path)
        if first == '"':
            return self._string()
        number = _NUMBER.match(self.text, self.at)
        if number is not None:
            return self._number(number)
        return self._name()

    def _object(self, path: Path) -> Json:
        members: dict[str, Json] = {}

        def member() -> None:
            start = self.at
            if not self.text.startswith('"', start):
                self._expected("a key in double quotes")
            key = self._string()
            self._skip()
            if not self.text.startswith(":", self.at):
                self._expected(f'":" after the key {json.dumps(key)}')
            self.at += 1
            self._skip()
            if key in members:
                self._duplicate(key, (*path, key), start)
            self.offsets.setdefault((*path, key), (start, self.at))
            members.setdefault(key, self._value((*path, key)))

        self._items("}", member)
        return members

    def _array(self, path: Path) -> Json:
        items: list[Json] = []

        def item() -> None:
            here = (*path, len(items))
            self.offsets.setdefault(here, (self.at, self.at))
            items.append(self._value(here))

        self._items("]", item)
        return items

    def _items(self, close: str, read: Callable[[], None]) -> None:
        self.at += 1
        self._skip()
        if self.text.startswith(close, self.at):
            self.at += 1
            return
        while True:
            read()
            self._skip()
            after = self.text[self.at : self.at + 1]
            if after not in (",", close) or not after:
                self._expected(f'"," or "{close}"', "put a comma between two values; JSON has no comments")
            self.at += 1
            if after == close:
                return
            self._skip()

    def _string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if match is None:
            self._expected("a complete string")
        self.at = match.end()
        return str(json.loads(match[0]))

    def _number(self, match: re.Match[str]) -> Json:
        start, self.at = self.at, match.end()
        try:
            return _finite(match[0]) if match[2] else int(match[1])
        except ValueError:
            limit = "a float (largest 1.8e308)" if match[2] else "Python's whole numbers (4300 digits)"
            self._add(start, f"a number must fit {limit}, but got {match[0][:24]}", "give it as a string, or smaller")
            return None

    def _name(self) -> Json:
        match = _NAME.match(self.text, self.at)
        name = match[0] if match else ""
        if name in _NOT_JSON:
            message = f"a number must be finite, but got {name}"
            self._add(self.at, message, "JSON has no such value: use null or a string")
        elif name not in _LITERALS:
            self._expected("a value")
        self.at += len(name)
        return _LITERALS.get(name)

    def _duplicate(self, key: str, path: Path, start: int) -> None:
        first, _ = _line_and_column(self._starts, self.offsets[path][0])
        self._add(start, f"a key must be given once, but {json.dumps(key)} also stands on line {first}", "remove one")

    def _skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def _add(self, offset: int, message: str, fix: str) -> None:
        line, _ = _line_and_column(self._starts, offset)
        self.problems.append((line, Problem(f"{self.source}:{line}", message, fix)))

    def _expected(self, what: str, fix: str = "") -> NoReturn:
        rest = self.text[self.at : self.at + 12].split("\n")[0]
        end = "the end of the line" if self.at < len(self.text) else "the end of the file"
        got = json.dumps(rest, ensure_ascii=False) if rest else end
        hints = (hint for pattern, hint in _HINTS if pattern.match(self.text, self.at))
        self._fail(f"expected {what}, but got {got}", fix or next(hints, "correct the JSON here"))

    def _fail(self, message: str, fix: str) -> NoReturn:
        line, column = _line_and_column(self._starts, self.at)
        problem = Problem(f"{self.source}:{line}", f"not JSON at column {column}: {message}", fix)
        raise SweepError([*(earlier for _, earlier in self.problems), problem])
