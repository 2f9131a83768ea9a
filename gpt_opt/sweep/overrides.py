r"""One parameter and its JSON value -> one Hydra override string that means exactly that value.

Hydra 1.3 parses `key=value` with its own grammar, and OmegaConf then reads strings a second time: `${...}` starts an
interpolation. Both readings are undone here, so that a value is data: what stands in the sweep file is what the
training code finds in its resolved config, whatever characters it has.

| JSON                  | override value                                                              |
|-----------------------|-----------------------------------------------------------------------------|
| null, true, 3, 1e-05  | as they are; floats as `repr`, so to the last bit                           |
| plain names and paths | bare: `adamw`, `data/pairs.jsonl`                                           |
| any other string      | quoted: `'true'`, `'1e3'`, `'a, b'`; `${` inside becomes `\${`              |
| list, object          | `[...]`, `{...}`, nested; object keys bare with `\` before special characters |

The parsed value equals the JSON value, except that a string with `${` is parsed to its OmegaConf escape (`\${`) and
turns into the JSON string when the config is resolved (`OmegaConf.to_container(cfg, resolve=True)` or attribute
access). `OmegaConf.resolve(cfg)` works in place and would read the result once more: do not use it on such configs.

What neither language can say is an error here: the string `???` (a missing value to OmegaConf), NUL and lone
surrogates (no command line carries them), and object keys that the grammar would read as a number, true, false or
null, or that hold a character outside its unquoted set.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable

from gpt_opt.errors import Problem, SweepError
from gpt_opt.sweep.json_file import Json

MAX_DEPTH = 64
"""Deepest nesting of lists and objects in one value; Hydra's parser is recursive."""

MAX_BYTES = 131_071
"""Longest override in UTF-8 bytes: Linux refuses a longer single argument (MAX_ARG_STRLEN, with its final NUL)."""

_ID = r"[A-Za-z_][A-Za-z0-9_-]*"
_SPECIAL = r"[A-Za-z_$][A-Za-z0-9_$-]*"
_PART = rf"(?:{_SPECIAL}|0|[1-9](?:_?[0-9])*)"
_PACKAGE = rf"(?:{_PART}(?:\.{_PART})+|{_SPECIAL})"
KEY_PATTERN = rf"^(?:\+\+?|~)?(?:{_ID}(?:/{_ID})+|{_PACKAGE})(?:@{_PACKAGE})?$"
"""What Hydra's grammar takes as the key of an override: `a.b`, `group/sub`, `group@package`, with `+`, `++` or `~`."""

_KEY = re.compile(KEY_PATTERN.removesuffix("$") + r"\Z")
_BARE = re.compile(rf"{_ID}(?:[./]{_ID})*")
_WORD = re.compile(r"true|false|null|[+-]?(?:inf|nan)", re.IGNORECASE)
_DIGITS = r"[0-9](?:_?[0-9])*"
_WHOLE = r"(?:0|[1-9](?:_?[0-9])*)"
_NUMBER = re.compile(rf"[+-]?(?:{_WHOLE}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?")
_DICT_KEY = re.compile(r"[A-Za-z0-9_/\-\\+.$%*@?|()\[\]{}:=, \t]+")
_DICT_KEY_ESCAPED = re.compile(r"[\\()\[\]{}:=, \t]")
_INTERPOLATION = re.compile(r"(\\*)\$\{")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BEFORE_QUOTE = {quote: re.compile(rf"(\\*)({quote}|\Z)") for quote in "'\""}


class _CannotSay(Exception):
    """A value that no override string can express: what must hold, and what to do."""


def target(key: str) -> str:
    """Returns the config key or group that an override key addresses, without its `+`, `++` or `~`."""
    return key.lstrip("+~")


def check_key(key: str) -> None:
    """Checks that Hydra's grammar takes `key` as the key of an override.

    Raises:
        SweepError: It does not; the problem says what a key looks like.
    """
    if _KEY.match(key) is None:
        message = f"a key must be one that Hydra can parse, but got {json.dumps(key)}"
        fix = "write a.b.c for a config key, group or group@package for a config group; + adds, ~ deletes"
        raise SweepError([Problem(key or '""', message, fix)])


def to_override(key: str, value: Json) -> str:
    """Writes one override for Hydra's command line.

    Args:
        key: Config key or group, with an optional `+` (add), `++` (add or change) or `~` (delete).
        value: Any JSON value. For a `~` key null means "delete, whatever it is"; another value means "delete if it
            is this one", which Hydra checks.

    Returns:
        One argument of a command line, never a sweep over several values. It is made for `execve`, not for a shell.

    Raises:
        SweepError: The key or the value cannot be said in Hydra's grammar; the problem says why and what to do.
    """
    check_key(key)
    if key.startswith("~") and value is None:
        return key
    try:
        override = f"{key}={_value(value, 0)}"
        if len(override) * 4 > MAX_BYTES and len(override.encode()) > MAX_BYTES:
            raise _CannotSay(
                f"an override can have at most {MAX_BYTES} bytes, but this one has {len(override.encode())}",
                "put the data into a file and give its path",
            )
    except _CannotSay as reason:
        raise SweepError([Problem(key, *reason.args)]) from None
    return override


def shell_word(text: str) -> str:
    r"""Returns a word for a shell, always on one line: control characters are written as $'\\n'."""
    if re.search(r"[\x00-\x1f\x7f]", text) is None:
        return shlex.quote(text)
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", plain) + "'"


def describe(items: Iterable[tuple[str, Json]]) -> str:
    """Names a point in one short line for a person; not an override: `loss.beta=0.1, seed=0`."""
    return ", ".join(f"{key}={v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for key, v in items)


def _value(value: Json, depth: int) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return _number(value)
    if depth == MAX_DEPTH:
        raise _CannotSay(f"a value can be nested at most {MAX_DEPTH} deep", "flatten it, or give the path of a file")
    if isinstance(value, list):
        return "[" + ",".join(_value(item, depth + 1) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_dict_key(k)}:{_value(v, depth + 1)}" for k, v in value.items()) + "}"
    raise _CannotSay(f"a value must be JSON, but got {type(value).__name__}", "use what json.loads can return")


def _number(value: int | float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise _CannotSay(f"a number must be finite, but got {value!r}", "give the string instead, or leave the key out")
    try:
        return repr(value)
    except ValueError:
        raise _CannotSay(
            "an integer can have at most 4300 digits: Python reads no longer one", "give it as a string"
        ) from None


def _text(text: str) -> str:
    if _BARE.fullmatch(text) and not _WORD.fullmatch(text):
        return text
    _check_text(text)
    if text == "???":
        raise _CannotSay(
            'the string "???" cannot be a value: OmegaConf reads it as "missing" and has no way to escape it',
            "use null, or another string",
        )
    quote = '"' if "'" in text and '"' not in text else "'"
    escaped = _INTERPOLATION.sub(r"\1\1\\${", text)
    # Hydra halves the backslashes that stand before a quote, the closing one included, and keeps all others.
    inner = _BEFORE_QUOTE[quote].sub(lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), escaped)
    return f"{quote}{inner}{quote}"


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _CannotSay("text cannot hold a NUL character: no command line can carry it", "remove \\u0000")
    lone = _SURROGATE.search(text)
    if lone is not None:
        code = f"\\u{ord(lone[0]):04x}"
        raise _CannotSay(
            f"text must be Unicode, but got the lone surrogate {code}", "write the character itself, or both halves"
        )


def _dict_key(key: str) -> str:
    if not isinstance(key, str):
        raise _CannotSay(f"the keys of an object must be strings, but got {key!r}", "JSON has no other keys")
    _check_text(key)
    if _DICT_KEY.fullmatch(key) is None:
        raise _CannotSay(
            f"Hydra's grammar has no way to write the object key {json.dumps(key)}",
            "object keys may hold ASCII letters, digits, spaces, tabs and _/-\\+.$%*@?|()[]{}:=, and must not be empty",
        )
    if _WORD.fullmatch(key) or _NUMBER.fullmatch(key):
        raise _CannotSay(
            f"Hydra's grammar would read the object key {json.dumps(key)} as a number, boolean or null, not as text",
            "rename the key, or use a list of [key, value] pairs",
        )
    return _DICT_KEY_ESCAPED.sub(lambda m: "\\" + m[0], key)
