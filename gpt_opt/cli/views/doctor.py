"""The checks of a machine as a person reads them, and as a program does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gpt_opt.dispatch.doctor import Check, all_well
from gpt_opt.table import Column, render

_WORDS = {True: "ok", False: "FAIL", None: "-"}


def as_text(found: Sequence[Check]) -> str:
    """Returns checks for a terminal; advice stands below its check."""
    cells = ([_WORDS[check.ok] for check in found], [check.name for check in found], [check.found for check in found])
    _, *rows = render([Column("", texts) for texts in cells])
    lines = []
    for row, check in zip(rows, found, strict=True):
        lines += [row, f"      {check.advice}"] if check.advice else [row]
    failed = sum(check.ok is False for check in found)
    return "\n".join([*lines, "", f"{failed} of {len(found)} checks failed" if failed else "nothing needed fails"])


def as_record(found: Sequence[Check]) -> dict[str, Any]:
    """Returns checks as JSON values."""
    return {"all_well": all_well(found), "items": [asdict(check) for check in found]}
