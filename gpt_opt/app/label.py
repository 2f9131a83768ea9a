"""The readable part of the name of a run directory: what was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from gpt_opt.config.overrides import parse_override
from gpt_opt.records.run_dir import LABEL_LIMIT
from gpt_opt.records.run_id import Identity


def label(overrides: Sequence[str], identity: Identity, seen: frozenset[str] = frozenset()) -> str:
    """Returns a short readable text of what was asked for: `beta=0.1,lr=0.001`, sorted; `default` for nothing.

    Of a key given several times the last value counts. Of a path stays what tells it from others: the run that it
    belongs to, or its last parts. Where all of it is too long for a file name, long values are shortened further.

    Args:
        overrides: Hydra override strings of one point.
        identity: What identifies a run; the rest is left out.
        seen: Keys that the path shows already.
    """
    last = dict(map(_label_part, overrides))
    parts = sorted(part for key, part in last.items() if key not in seen and identity.has(key))
    for limit in _VALUE_LIMITS:
        text = ",".join(_limited(part, limit) for part in parts)
        if len(text) <= LABEL_LIMIT:
            break
    return text or "default"


_VALUE_LIMITS = (60, 40, 30, 24, 18, 14, 10)
"""Characters to which values are shortened, one after the other, until a label fits."""


def _limited(part: str, limit: int) -> str:
    """Returns `key=value` with the run id, or else the end, of a value that is too long, `--` for its beginning."""
    if len(part) <= limit:
        return part
    name, sign, value = part.partition("=")
    if len(value) > limit and _RUN_FIRST.match(value):
        return f"{name}={value[:12]}"
    return part if len(value) <= limit else f"{name}{sign}--{value[len(value) - limit + 2 :].lstrip('-')}"


_RUN_FIRST = re.compile(r"[0-9a-f]{12}(/|$)")
_RUN_IN_PATH = re.compile(r"-([0-9a-f]{12})(?=/|$)")


def _path_value(value: str) -> str:
    """Returns of a path the id of the run in it and what follows, else its last two parts."""
    if value.startswith(("[", "{")):
        return value
    value = value.removeprefix("run:")
    if (found := _RUN_IN_PATH.search(value)) is not None:
        return (found[1] + value[found.end() :]).replace("/checkpoints/", "/")
    return "/".join(value.rstrip("/").split("/")[-2:])


@lru_cache(maxsize=1 << 16)
def _label_part(text: str) -> tuple[str, str]:
    """Returns the key of an override and what a label says of it."""
    override = parse_override(text)
    key = override.key_or_group
    value = "" if override.is_delete() else "=" + _path_value(override.get_value_element_as_str().strip("'\""))
    return key, key.rpartition(".")[2] + value
