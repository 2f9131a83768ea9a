"""drivers.jsonl of a sweep: when drivers had slots for it, and how many."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt_opt.records.io import append_records, now, read_lines

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Driven:
    """A time in which a driver had slots for the runs of one shape.

    Attributes:
        session: The driver incarnation, as `gpt_opt.records.job_id` spells it.
        shape: Of the runs.
        slots: Runs at a time.
        started: ISO 8601 UTC.
        ended: ISO 8601 UTC; None while it lasts, and where the driver was killed.
    """

    session: str
    shape: int
    slots: int
    started: str
    ended: str | None = None


@contextmanager
def driving(file: Path, session: str, shape: int, slots: int) -> Iterator[None]:
    """Writes down, with the fields of `Driven`, that a driver has slots as long as the block lasts."""
    _append(file, {"start": session, "shape": shape, "slots": slots, "time": now()})
    try:
        yield
    finally:
        _append(file, {"end": session, "shape": shape, "time": now()})


def _append(file: Path, record: dict[str, Any]) -> None:
    try:
        append_records(file, [record])
    except OSError as error:  # as of a full disk, which must not cost the allocation
        log.warning("sweep efficiency will be off, for a line could not be written: %s", error)


def read_drivers(file: Path) -> list[Driven]:
    """Returns what drivers.jsonl says, in order; foreign and torn lines are left out."""
    found: list[Driven] = []
    newest: dict[tuple[str, int], int] = {}

    def add(record: dict[str, Any]) -> None:
        if "start" in record:
            begun = Driven(record["start"], record["shape"], int(record["slots"]), record["time"])
            newest[begun.session, begun.shape] = len(found)
            found.append(begun)
        else:
            place = newest[record["end"], record["shape"]]
            found[place] = replace(found[place], ended=record["time"])

    read_lines(file, add)
    return found
