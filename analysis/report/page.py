"""The page of a report: the document, the style and the script in one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any


def page(document: Mapping[str, Any]) -> str:
    """Returns the page of a document that `gather` made.

    Whatever is in the document stays data: nothing in it can end the script element that holds it, and the page runs
    and styles nothing but what its own hashes name.
    """
    style, script = _part("page.css"), _part("page.js")
    data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Template(_part("page.html")).substitute(
        title=html.escape(str(document["title"])),
        sentence=html.escape(str(document["sentence"])),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=data.encode("utf-8", "backslashreplace").decode("utf-8"),  # a name that is no UTF-8
    )


@cache
def _part(name: str) -> str:
    return (files("analysis.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Returns what a Content-Security-Policy calls a text of a style or script element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
