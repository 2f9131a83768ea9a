"""The page of a report: sections, document, style and script in one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from analysis.report.contents import Contents, Source
from analysis.report.data import document
from analysis.report.markup import Html, joined, tag
from analysis.report.sections import facts, sections

_SCRIPTS = ("basics.js", "figures.js", "page.js")


def page(source: Source, every_s: float | None = None) -> str:
    """Returns the report as HTML.

    Whatever runs and configs hold stays text: nothing in it can end an element, and a browser runs and styles nothing
    but the script and the style whose hashes the page names.

    Args:
        source: What it is about.
        every_s: Seconds until it is written again; None where it is not.
    """
    contents = Contents(source)
    style, script = _part("page.css"), "".join(map(_part, _SCRIPTS))
    found = sections(contents, Html(_part("runs.html")))
    return Template(_part("page.html")).substitute(
        title=joined(source.title),
        sentence=joined(contents.texts.text(source.answer.sentence())),
        facts=facts(contents),
        contents=joined(*(tag("a", title, href=f"#{title.lower()}") for title in found)),
        sections=joined(*(_section(title, html) for title, html in found.items())),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=_inert(document(contents, every_s)),
    )


def _section(title: str, html: Html) -> Html:
    anchor = title.lower()
    return tag("section", tag("h2", title, id=f"{anchor}-title"), html, id=anchor, aria_labelledby=f"{anchor}-title")


def _inert(record: Mapping[str, Any]) -> str:
    """Returns JSON in which nothing can end the script element that holds it."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@cache
def _part(name: str) -> str:
    return (files("analysis.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Returns what a Content-Security-Policy calls the text of a style or script element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
