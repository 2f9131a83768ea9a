"""What several views of runs have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gpt_opt.errors import plain
from gpt_opt.sweep.varying import parameters, short_names
from gpt_opt.table import Column, wrapped


def one_line(text: str) -> str:
    """Returns a value as a line of a table can show it."""
    return plain(text.replace("\n", "\\n"))


def size(count: int) -> str:
    """Returns bytes as a person says them: `640 kB`, `1.2 GB`."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 9.95 or unit == "B" else f"{value:.1f} {unit}"


def parameter_columns(runs: Sequence[Sequence[str]], varying: Sequence[str]) -> list[Column]:
    """Returns the columns of a table for keys that vary, with a cell for each list of override strings."""
    values = [parameters(overrides) for overrides in runs]
    names = short_names(varying)
    return [Column(names[key], [shown_value(item.get(key, "")) for item in values], flexible=True) for key in varying]


def shown_value(value: str) -> str:
    """Returns the value of an override string as people know it: `${` of a text without the backslash before it."""
    return _LITERAL.sub(lambda found: found[1][: len(found[1]) // 2] + "${", value) if value[:1] in "'\"" else value


_LITERAL = re.compile(r"(\\*)\\\$\{")
"""What `gpt_opt.sweep.overrides` makes of `${` and the backslashes before it."""


def common_lines(common: Mapping[str, str], width: int | None) -> list[str]:
    """Returns what all runs share."""
    values = " ".join(f"{key}={one_line(shown_value(value))}" for key, value in common.items())
    return wrapped(f"all runs: {values}", width) if common else []
