"""The text of the HTML that people write on Stack Exchange."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_BLOCKS = frozenset(["p", "pre", "li", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "div", "hr", "tr"])


def plain_text(html: str) -> str:
    """Returns the text of HTML: blocks apart by blank lines, code within `<code>` and `</code>`, no other tag.

    Text within emphasis, links and lists is kept; the reference implementation of the data set loses it.
    """
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "\n\n".join(text for block in parser.blocks if (text := "".join(block).strip()))


class _Text(HTMLParser):
    """Collects the pieces of text of each block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[list[str]] = [[]]
        self._in_pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.blocks.append([])
            self._in_pre = tag == "pre" or self._in_pre
        elif tag == "code":
            self.blocks[-1].append("<code>")
        elif tag == "br":
            self.blocks[-1].append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.blocks.append([])
            self._in_pre = self._in_pre and tag != "pre"
        elif tag == "code":
            self.blocks[-1].append("</code>")

    def handle_data(self, data: str) -> None:
        self.blocks[-1].append(data if self._in_pre else re.sub(r"\s+", " ", data))
