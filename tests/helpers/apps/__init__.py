"""Applications that were not written for gpt-opt; README.md lists them."""

from __future__ import annotations

import shutil
from pathlib import Path

APPS = Path(__file__).resolve().parent


def copied(name: str, folder: Path) -> Path:
    """Returns a copy of an application, in a folder that is made."""
    return Path(shutil.copytree(APPS / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")))
