"""Text for a terminal, by rich: tables of which no column is left out and no value is cut, and colours of states."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING, TextIO, TypeAlias

from gpt_opt.errors import plain

if TYPE_CHECKING:
    from rich.text import Text

GAP = 2
"""Blanks between two columns."""

INDENT = "    "
"""Before the second and further lines of a row."""

LEAST = 12
"""Characters to which columns are folded before rows go over several lines."""


_COLOURS = {
    r"\bFAILED\b|^FAIL\b": "red",
    r"\b(?:STALLED|INTERRUPTED|CANCELLED)\b": "yellow",
    r"\bRUNNING\b": "cyan",
    r"\bCOMPLETED\b|^ok\b": "green",
}
"""Pattern in a text to the colour of what it finds."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Its header.
        cells: Its texts, one a row.
        right: Whether they are aligned to the right, as numbers are, and never folded.
        flexible: Whether header and texts may be folded, and what all texts begin with may stand below the table.
    """

    name: str
    cells: Sequence[str]
    right: bool = False
    flexible: bool = False

    @property
    def width(self) -> int:
        """Terminal columns of the widest text."""
        return max(map(_width, (self.name, *self.cells)))

    @property
    def least(self) -> int:
        """Terminal columns to which it may be folded."""
        if not self.flexible:
            return self.width
        return min(self.width, max([LEAST, *map(_width, self.cells)] if self.right else [LEAST]))


_Block: TypeAlias = list[tuple[Column, int]]
"""Columns that stand side by side, with their widths."""


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def terminal_width(stream: TextIO) -> int | None:
    """Returns the columns of the terminal behind a stream, or $COLUMNS; None where nothing limits a line."""
    if (given := os.environ.get("COLUMNS", "")).isdigit() and int(given):
        return int(given)
    try:
        return (os.get_terminal_size(stream.fileno()).columns or 80) if stream.isatty() else None
    except (OSError, ValueError):
        return None


def show(text: str, out: TextIO) -> None:
    """Prints a view; states have colours on a terminal, unless NO_COLOR or TERM=dumb is set."""
    if not out.isatty():
        print(text, file=out)
        return
    from rich.console import Console

    Console(file=out, highlight=False).print(coloured(text), soft_wrap=True)


def coloured(text: str) -> Text:
    """Returns a text with the colours of its states."""
    from rich.text import Text

    found = Text(text)
    for pattern, colour in _COLOURS.items():
        found.highlight_regex(re.compile(pattern, re.MULTILINE), colour)
    return found


def wrapped(text: str, width: int | None) -> list[str]:
    """Returns a text as lines of at most `width` characters where words allow it, the further ones indented."""
    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(1, width), subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def render(columns: Sequence[Column], width: int | None = None) -> list[str]:
    """Returns a table as lines, the header first.

    What is too wide is folded within its column; what all texts of a column begin with then stands below the table,
    once. Where that is not enough, every row takes several lines.

    Args:
        columns: With one number of cells.
        width: Columns of the terminal; None for lines of any length.
    """
    columns = [replace(item, cells=[plain(cell.replace("\n", "\\n")) for cell in item.cells]) for item in columns]
    if width is None or _total(item.width for item in columns) <= width:
        return _lines([[(item, item.width) for item in columns]])
    columns, starts = _without_common_start(columns)
    below = [line for start in starts for line in wrapped(start, width)]
    widths, least = [item.width for item in columns], [item.least for item in columns]
    if _total(least) > width:
        return [*_lines(_packed(columns, width)), *below]
    while _total(widths) > width:
        widest = max((index for index in range(len(widths)) if widths[index] > least[index]), key=widths.__getitem__)
        widths[widest] -= 1
    return [*_lines([list(zip(columns, widths, strict=True))]), *below]


def _total(widths: Iterable[int]) -> int:
    found = list(widths)
    return sum(found) + GAP * (len(found) - 1)


def _without_common_start(columns: Sequence[Column]) -> tuple[list[Column], list[str]]:
    """Takes from the texts of flexible columns the long path or name that all of them begin with.

    Returns:
        The columns, with `…` for it, and the lines that say what it is.
    """
    found, starts = [], []
    for item in columns:
        common = _common_start(item.cells) if item.flexible and not item.right else ""
        if item.width > LEAST and len(common) > 2:
            item = replace(item, cells=["…" + cell.removeprefix(common) for cell in item.cells])
            starts.append(f"{item.name}: … is {common}")
        found.append(item)
    return found, starts


def _common_start(texts: Sequence[str]) -> str:
    """Returns the whole words and folders that all of several texts begin with."""
    if len(texts) < 2:
        return ""
    first, last = min(texts), max(texts)
    size = next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return first[: max(first.rfind(sign, 0, size) for sign in "/.=_- ") + 1]


def _packed(columns: Sequence[Column], width: int) -> list[_Block]:
    """Puts columns, in order, on as few lines a row as hold them."""
    blocks: list[_Block] = [[]]
    for item in columns:
        own = max(min(item.width, width - len(INDENT)), item.least)
        if blocks[-1] and _total([*(part for _, part in blocks[-1]), own]) > width - len(INDENT) * (len(blocks) > 1):
            blocks.append([])
        blocks[-1].append((item, own))
    return blocks


def _lines(blocks: Sequence[_Block]) -> list[str]:
    """Returns the lines of every row, one block of columns below the other."""
    lines = []
    for first, *further in zip(*map(_rows, blocks), strict=True):
        lines += first
        lines += [INDENT + line for part in further for line in part if line]
    return lines


def _rows(block: _Block) -> list[list[str]]:
    """Returns the header and the rows, each as its lines."""
    texts = [(item.name, *item.cells) for item, _ in block]
    if any(item.width > width for item, width in block):
        return [_row(block, row) for row in zip(*texts, strict=True)]
    return [[line] for line in _row(block, ["\n".join(cells) for cells in texts])]  # as one row: much faster


def _row(block: _Block, texts: Sequence[str]) -> list[str]:
    """Returns a row as lines; a text of several lines, or one that is folded, makes it as high as it needs."""
    from rich.console import Console
    from rich.table import Table

    grid = Table.grid(padding=(0, GAP, 0, 0))
    for item, width in block:
        grid.add_column(justify="right" if item.right else "left", width=width, overflow="fold")
    grid.add_row(*texts)
    # rich cuts what is wider than its console; this one is as wide as the table.
    out, width = StringIO(), _total(part for _, part in block) + GAP
    Console(file=out, width=width, color_system=None, markup=False, emoji=False, highlight=False).print(grid)
    return [line.rstrip() for line in out.getvalue().splitlines()]
