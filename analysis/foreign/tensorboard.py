"""Event files of tensorboard, read by its own package where that is installed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from analysis.files import Problems
from analysis.foreign.parts import Part, our_name

_FILES = "events.out.tfevents."


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether a folder with these names has event files."""
    return any(name.startswith(_FILES) for name in names)


def read(folder: str) -> Part:
    """Reads the scalars of all event files of a folder, in the order in which they were begun."""
    part, problems = Part("tensorboard"), Problems()
    part.missing.append("its config, which tensorboard does not have")
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        part.missing.append("its metrics; the package tensorboard reads them: pip install 'gpt-opt[tensorboard]'")
        return part
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for file in sorted(Path(folder).glob(f"{_FILES}*")):
        try:
            for step, name, value, seconds in _scalars(file):
                part.log(step, our_name(name), value)
                part.log(step, "time", seconds)
        except Exception as error:  # of whatever its protocol buffers make of a broken file
            problems.add(file, f"must be an event file, but cannot be read to its end: {error!r}")
    part.problems = problems.found
    return part


def _scalars(file: Path) -> Iterator[tuple[int, str, float, float]]:
    """Yields step, tag, value and time in seconds since 1970 of every scalar.

    Raises:
        ValueError: If there is something in it, but no event.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    event = None
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield event.step, value.tag, float(value.simple_value), event.wall_time
            elif value.HasField("tensor") and value.metadata.plugin_data.plugin_name == "scalars":
                yield event.step, value.tag, float(make_ndarray(value.tensor).item()), event.wall_time
    if event is None and file.stat().st_size:  # what is cut off or damaged ends the file for the loader
        raise ValueError("it does not begin with an event")
