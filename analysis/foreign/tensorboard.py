"""Event files of tensorboard."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from analysis.foreign.parts import Part
from gpt_opt.app.sources.tensorboard import PREFIX, EventFile


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether a folder with these names has event files."""
    return any(name.startswith(PREFIX) for name in names)


def read(folder: str) -> Part:
    """Reads the scalars of all event files of a folder, in the order in which they were begun."""
    part = Part("tensorboard")
    part.missing.append("its config, which tensorboard does not have")
    for file in sorted(Path(folder).glob(f"{PREFIX}*")):
        try:
            for row in EventFile().new_rows(file):
                part.take(row)
        except (OSError, ValueError) as error:
            part.problems.add(file, f"must be an event file, but cannot be read to its end: {error}")
    return part
