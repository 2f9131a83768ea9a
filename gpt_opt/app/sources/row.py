"""A row of metrics, and what reads rows of a file that grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NotRequired, Protocol, TypedDict

from gpt_opt.records.step_log import STEP_LIMIT


class Row(TypedDict):
    """What was logged at once.

    Attributes:
        step: Optimizer steps so far.
        time: Seconds since 1970; None where the file does not say.
        values: Metrics by the names under which they were logged, NaN and infinities included.
        total_steps: Optimizer steps of the whole run, where the file says so.
    """

    step: int
    time: float | None
    values: dict[str, float]
    total_steps: NotRequired[int]


class Reader(Protocol):
    """Reads one file again and again."""

    def new_rows(self, file: Path) -> Iterator[Row]:
        """Yields what has been logged since the last time; a record that is not whole yet is left for the next.

        Args:
            file: The same each time.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is none of its kind, or damaged.
        """


def step_of(value: object) -> int | None:
    """Returns a number of steps, which some loggers write as a float; None for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < STEP_LIMIT else None


class BinaryLog:
    """A file of records, read from where the last reading ended.

    Args:
        records: Yields the records from the place of a stream on, and leaves it behind the last whole one. Raises
            ValueError where something is no record.
    """

    def __init__(self, records: Callable[[BinaryIO], Iterator[bytes]]) -> None:
        self._records = records
        self._place = 0

    def new(self, file: Path) -> Iterator[bytes]:
        """Yields the records that came since.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If something in it is no record.
        """
        with file.open("rb") as stream:
            stream.seek(self._place)
            for record in self._records(stream):
                yield record
                self._place = stream.tell()
