"""Tables for a terminal: no column is left out, and values are shortened to what tells them apart."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

GAP = "  "
INDENT = "    "
"""Before the second and further lines of a row."""

LEAST = 10
"""Characters to which values are shortened before rows go over several lines."""

MULTILINE = 24
"""Characters to which values are shortened there."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Its header.
        cells: Its texts, one a row.
        right: Whether they are aligned to the right, as numbers are.
        flexible: Whether header and texts may be shortened.
    """

    name: str
    cells: Sequence[str]
    right: bool = False
    flexible: bool = False

    @property
    def width(self) -> int:
        """Characters of the widest text."""
        return max(map(len, (self.name, *self.cells)))


def terminal_width(stream: TextIO) -> int | None:
    """Returns the columns of the terminal behind a stream, or $COLUMNS; None where nothing limits a line."""
    if (given := os.environ.get("COLUMNS", "")).isdigit() and int(given):
        return int(given)
    try:
        return (os.get_terminal_size(stream.fileno()).columns or 80) if stream.isatty() else None
    except (OSError, ValueError):
        return None


def wrapped(text: str, width: int | None) -> list[str]:
    """Returns a text as lines of at most `width` characters where words allow it, the further ones indented."""
    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(1, width), subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows of cells as lines of a table without a header."""
    return _lines([[Column("", cells) for cells in zip(*rows, strict=True)]], "")[1:]


def render(columns: Sequence[Column], width: int | None) -> list[str]:
    """Returns a table as lines, the header first.

    What is too wide has its flexible texts shortened; where that is not enough, every row takes several lines.

    Args:
        columns: With one number of cells.
        width: Characters of a line; None for any number.
    """
    if width is None or _total(item.width for item in columns) <= width:
        return _lines([columns], "")
    limits = [item.width for item in columns]
    flexible = [place for place, item in enumerate(columns) if item.flexible]
    while _total(limits) > width and any(limits[place] > LEAST for place in flexible):
        limits[max(flexible, key=limits.__getitem__)] -= 1
    fitted = _limited(columns, limits)
    if _total(item.width for item in fitted) <= width:
        return _lines([fitted], "")
    most = max(LEAST, min(MULTILINE, width - len(INDENT)))
    return _lines(_packed(_limited(columns, [most] * len(columns)), width), INDENT)


def _total(widths: Iterable[int]) -> int:
    found = list(widths)
    return sum(found) + len(GAP) * (len(found) - 1)


def _limited(columns: Sequence[Column], limits: Sequence[int]) -> list[Column]:
    names = [item.name for item in columns]
    found = []
    for item, limit in zip(columns, limits, strict=True):
        if item.flexible and item.width > limit:
            short = shortened(item.cells, limit)
            name = shortened(names, limit)[item.name]
            item = Column(name, [short[cell] for cell in item.cells], item.right, item.flexible)
        found.append(item)
    return found


def _packed(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Puts columns, in order, on as few lines as hold them."""
    lines: list[list[Column]] = [[]]
    for item in columns:
        indent = len(INDENT) if len(lines) > 1 else 0
        if lines[-1] and indent + _total(part.width for part in (*lines[-1], item)) > width:
            lines.append([])
        lines[-1].append(item)
    return lines


def _lines(blocks: Sequence[Sequence[Column]], indent: str) -> list[str]:
    rows = [[item.name for block in blocks for item in block]]
    rows += [list(row) for row in zip(*(item.cells for block in blocks for item in block), strict=True)]
    found = []
    for row in rows:
        start = 0
        for place, block in enumerate(blocks):
            pairs = zip(row[start : start + len(block)], block, strict=True)
            cells = [cell.rjust(item.width) if item.right else cell.ljust(item.width) for cell, item in pairs]
            line = ((indent if place else "") + GAP.join(cells)).rstrip()
            if line or not place:
                found.append(line)
            start += len(block)
    return found


def shortened(values: Iterable[str], limit: int) -> dict[str, str]:
    """Returns every value in at most `limit` characters, `…` for what is left out; different values stay different.

    What long values have in common at both ends gives way first.
    """
    distinct = list(dict.fromkeys(values))
    long = [value for value in distinct if len(value) > limit]
    found = {value: value for value in distinct}
    found.update(_windows(long, limit))
    taken = {value for value in distinct if len(value) <= limit}
    for value in long:
        text, number = found[value], 1
        while text in taken:
            number += 1
            text = f"{_clipped(value, limit - len(str(number)) - 1)}~{number}"
        found[value] = text
        taken.add(text)
    return found


def _windows(values: Sequence[str], limit: int) -> dict[str, str]:
    """Returns of each value the part in which it differs from the others, as far as `limit` goes."""
    if len(values) < 2:
        return {value: _clipped(value, limit) for value in values}
    start = common_start(values)
    end = common_start([value[start:][::-1] for value in values])
    found = {value: _around(value, start, len(value) - end, limit) for value in values}
    for text in set(found.values()):
        alike = [value for value in values if found[value] == text]
        if 1 < len(alike) < len(values):
            found.update(_windows(alike, limit))
    return found


def common_start(values: Sequence[str]) -> int:
    """Returns how many characters all of `values` begin with alike."""
    first, last = min(values), max(values)
    return next((place for place, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))  # noqa: B905


def _around(value: str, start: int, end: int, limit: int) -> str:
    """Returns `value[start:end]` with as much before and behind it as `limit` allows, more before it."""
    if end - start > limit - 2:
        inner = _clipped(value[start:end], limit - (start > 0) - (end < len(value)))
        return f"{'…' if start else ''}{inner}{'…' if end < len(value) else ''}"
    room = limit - 2 - (end - start)
    after = len(value) - end if len(value) - end <= room - _BEFORE else room // 3  # an end is best shown whole
    first = max(0, start - (room - after))
    last = min(len(value), first + limit - 2) if first else min(len(value), limit - 1)
    if last == len(value):
        first = len(value) - limit + 1
    return f"{'…' if first else ''}{value[first:last]}{'…' if last < len(value) else ''}"


_BEFORE = 1
"""Characters before the part that differs, at least."""


def _clipped(text: str, width: int) -> str:
    """Shortens in the middle: paths and long names differ at their ends."""
    if len(text) <= width:
        return text
    head = width // 3
    return f"{text[:head]}…{text[len(text) - (width - head - 1) :]}"
