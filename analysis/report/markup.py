"""HTML from values: whatever is not HTML already is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """A text that is HTML."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Returns an element.

    Args:
        name: Of the element.
        children: `Html` stands as it is, anything else is a text; None is left out.
        attributes: `class_` is class, `data_run` is data-run; None is left out.
    """
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opened = "".join([name, *(f' {key}="{html.escape(str(value))}"' for key, value in given)])
    return Html(f"<{opened}>{joined(*children)}</{name}>")


def joined(*children: object) -> Html:
    """Returns texts and HTML one after the other as HTML."""
    given = (child for child in children if child is not None)
    return Html("".join(child if isinstance(child, Html) else html.escape(str(child)) for child in given))


def details(title: str, *children: object) -> Html:
    """Returns what is shown on demand."""
    return tag("details", tag("summary", title), *children)


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], numbers: Sequence[int] = (), plain: bool = True
) -> Html:
    """Returns a table.

    Args:
        head: Titles of the columns; none for a table of names and values.
        rows: The cells.
        numbers: Columns that hold numbers.
        plain: Whether texts are folded.
    """

    def cells(kind: str, row: Sequence[object]) -> Html:
        made = (tag(kind, cell, class_="number" if place in numbers else None) for place, cell in enumerate(row))
        return tag("tr", *made)

    titles = tag("thead", cells("th", head)) if head else None
    body = tag("tbody", *(cells("td", row) for row in rows))
    return tag("div", tag("table", titles, body, class_="plain" if plain else None), class_="scroll")


def command(text: str) -> Html:
    """Returns a command to copy."""
    return tag("div", tag("pre", tag("code", text), tabindex=0), class_="command")
