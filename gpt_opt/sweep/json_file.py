"""Strict JSON with positions: every mistake is reported with its file and line.

Stricter than Python's json: duplicate keys, NaN, Infinity, numbers beyond a float, bytes that are not UTF-8 and a byte
order mark are errors. Integers stay exact and floats keep every bit. json.loads reads every file and finds its mistakes
of syntax; only for a bad file, or a question for a position, its tokens are looked at once more, for lines and words.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from bisect import bisect_right
from contextlib import suppress
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

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[][{}:,]|[^][{}:,"\s]+', re.DOTALL)
_BARE = re.compile(r"[0-9A-Za-z_.+-]+")
"""What stands without quotes: a number or a name."""

_YAML = re.compile(r"(?:\s|#.*\n)*(?:---|-?\s*[\w.+@/-]+:(?:\s|$))")
"""How a file begins that is YAML."""

_LONG = 4000
"""Digits up to which an integer is surely converted."""

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
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
        """Returns the line (from 1) of the object key that `path` ends with, or of the list item."""
        return self.position(path)[0]

    def position(self, path: Path) -> tuple[int, int]:
        """Returns line and column, both from 1, of the object key that `path` ends with, or of the list item.

        Raises:
            KeyError: The document has no such path.
        """
        return self._tokens.position(self._tokens.offsets[path])

    def where(self, path: Path) -> str:
        """Returns `file:line key`, with the last object key of the path; `file:line` for the root."""
        keys = [step for step in path if isinstance(step, str)]
        return f"{self.source}:{self.line(path)}" + (f" {keys[-1]}" if keys else "")

    def key_lines(self) -> dict[str, int]:
        """Returns the line of the first appearance of every object key, wherever it stands."""
        lines: dict[str, int] = {}
        for path in self._tokens.offsets:
            if path and isinstance(path[-1], str):
                lines.setdefault(path[-1], self.line(path))
        return lines

    @cached_property
    def _tokens(self) -> _Tokens:
        return _Tokens(self.source, self.text, len(self.text))


def read_json(path: str | FilePath) -> Document:
    """Reads a JSON file.

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
    """Parses JSON text; `source` stands for the file name in messages.

    Raises:
        SweepError: As for `read_json`.
    """
    hooks, value = _Hooks(), None
    error: json.JSONDecodeError | None = None
    try:
        value = hooks.loads(text)
    except json.JSONDecodeError as caught:
        error = caught
    except RecursionError:
        hooks.is_strict = False  # the tokens say where it is too deep
    if error is None and hooks.is_strict and not _deeper_than(MAX_DEPTH, value):
        return Document(source, text, value)
    tokens = _Tokens(source, text, len(text) if error is None else error.pos)
    if error is not None:
        tokens.explain(error)
    return Document(source, text, value, tuple(tokens.problems))


def shown(value: Json, limit: int = 60) -> str:
    """Returns a value as JSON text for a message, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Hooks:
    """Takes what json allows and a sweep file must not have, and notes that it did."""

    def __init__(self) -> None:
        self.is_strict = True

    def loads(self, text: str) -> Json:
        """Returns the value; of a duplicate key the first one, and null for a number that is none.

        Raises:
            json.JSONDecodeError: The text is not JSON.
        """
        value: Json = json.loads(
            text,
            object_pairs_hook=self._object,
            parse_constant=lambda _: self._no_number(),
            parse_float=lambda digits: float(digits) if _fits(digits) else self._no_number(),
            parse_int=lambda digits: int(digits) if len(digits) < _LONG or _fits(digits) else self._no_number(),
        )
        return value

    def _object(self, pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        members = dict(pairs)
        if len(members) != len(pairs):
            self.is_strict = False
            members |= dict(reversed(pairs))
        return members

    def _no_number(self) -> None:
        self.is_strict = False


def _fits(number: str) -> bool:
    """Returns whether Python can hold a JSON number."""
    try:
        return not math.isinf(float(number)) if any(sign in number for sign in ".eE") else int(number) is not None
    except ValueError:  # an integer with more digits than Python converts
        return False


def _deeper_than(limit: int, value: Json) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_deeper_than(limit - 1, item) for item in inner)


class _Tokens:
    """The tokens of a text that is JSON up to `end`: where every key and item stands, and what must not be there.

    Raises:
        SweepError: The text is nested too deep.
    """

    def __init__(self, source: str, text: str, end: int) -> None:
        self.offsets: dict[Path, int] = {(): len(text) - len(text.lstrip(" \t\n\r"))}
        self.problems: list[tuple[int, Problem]] = []
        self._source, self._text = source, text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._path: list[str | int] = []
        self._open: list[dict[str, int] | None] = []  # of an object, where its keys stand; None for a list
        self._at = 0
        is_key = False
        for found in _TOKEN.finditer(text, 0, end):
            token, self._at = found[0], found.start()
            if token in ("}", "]"):
                self._open.pop()
                self._path.pop()
                is_key = False
            elif token == ",":
                is_key = self._next()
            elif is_key:
                is_key = False
                with suppress(ValueError):  # the end of the tokens is within it
                    self._key(json.loads(token))
            elif token != ":":
                is_key = self._value(token)

    def position(self, offset: int) -> tuple[int, int]:
        """Returns line and column, both from 1."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def _next(self) -> bool:
        """Goes on to the next member of a list or object; returns whether a key comes."""
        last = self._path[-1]
        if isinstance(last, int):
            self._path[-1] = last + 1
        return self._open[-1] is not None

    def _key(self, key: str) -> None:
        keys = self._open[-1]
        assert keys is not None
        if key in keys:
            first, _ = self.position(keys[key])
            self._add(f"a key must be given once, but {json.dumps(key)} also stands on line {first}", "remove one")
        keys.setdefault(key, self._at)
        self._path[-1] = key
        self.offsets.setdefault(tuple(self._path), self._at)

    def _value(self, token: str) -> bool:
        """Takes the first token of a value; returns whether a key comes next."""
        self.offsets.setdefault(tuple(self._path), self._at)
        if token in ("{", "["):
            if len(self._open) >= MAX_DEPTH:
                self._fail(f"the file can be nested at most {MAX_DEPTH} deep", "flatten it")
            self._open.append({} if token == "{" else None)
            self._path.append("" if token == "{" else 0)
        elif token in _NOT_FINITE:
            self._add(f"a number must be finite, but got {token}", "JSON has no such value: use null or a string")
        elif token[0] in "-0123456789" and not _fits(token):
            is_float = any(sign in token for sign in ".eE")
            limit = "a float (largest 1.8e308)" if is_float else "Python's integers (4300 digits)"
            self._add(f"a number must fit {limit}, but got {token[:24]}", "give it as a string, or smaller")
        return token == "{"

    def explain(self, error: json.JSONDecodeError) -> NoReturn:
        """Says what json found wrong at the end of the tokens.

        Raises:
            SweepError: Always.
        """
        message, last, self._at = error.msg, self._at, error.pos
        if _YAML.match(self._text):
            self._fail("it looks like YAML", 'a sweep file is JSON: {"grid": {"seed": [0, 1]}}')
        if "BOM" in message:
            self._fail("the file must not begin with a byte order mark", "save it as UTF-8 without one")
        if "trailing comma" in message:  # as Python 3.13 has it
            self._at = len(self._text) - len(self._text[self._at + 1 :].lstrip())
            self._expected("a value" if "array" in message else "a key in double quotes")
        if "property name" in message:
            self._expected("a key in double quotes")
        if "':'" in message:
            self._expected(f'":" after the key {json.dumps(self._path[-1])}')
        if "','" in message or "Extra data" in message:
            if _BARE.match(self._text, self._at) and _BARE.match(self._text, self._at - 1):  # json read a part of it
                self._at = last
                self._expected("a value")
            if "Extra data" in message:
                braces = "put braces around the whole: {...}" if self._text.startswith(":", self._at) else ""
                fix = braces or "a file holds one value: remove what follows it"
                self._expected("the end of the file", fix)
            close = "]" if self._open[-1] is None else "}"
            self._expected(f'"," or "{close}"', "put a comma between two values; JSON has no comments")
        if message != "Expecting value":  # of a string
            self._at = self._at if message.startswith("Unterminated") else last
            self._expected("a complete string")
        self._expected("a value")

    def _add(self, message: str, fix: str) -> None:
        line, _ = self.position(self._at)
        self.problems.append((line, Problem(f"{self._source}:{line}", message, fix)))

    def _expected(self, what: str, fix: str = "") -> NoReturn:
        rest = self._text[self._at : self._at + 12].split("\n")[0]
        end = "the end of the line" if self._at < len(self._text) else "the end of the file"
        got = json.dumps(rest, ensure_ascii=False) if rest else end
        hints = (hint for pattern, hint in _HINTS if pattern.match(self._text, self._at))
        self._fail(f"expected {what}, but got {got}", fix or next(hints, "correct the JSON here"))

    def _fail(self, message: str, fix: str) -> NoReturn:
        line, column = self.position(self._at)
        problem = Problem(f"{self._source}:{line}", f"not JSON at column {column}: {message}", fix)
        raise SweepError([*(earlier for _, earlier in self.problems), problem])
