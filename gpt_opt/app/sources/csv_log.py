"""CSV logs, such as Lightning's metrics.csv: a row a line, empty cells where a metric was not logged."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from gpt_opt.app.sources.row import Row, step_of


class CsvLog:
    """Reads one file; where it is written anew, with a further column for example, only what is beyond the known rows.

    Args:
        step: Its column with the step.
    """

    def __init__(self, step: str = "step") -> None:
        self._step = step
        self._header, self._place, self._count = b"", 0, 0

    def new_rows(self, file: Path) -> Iterator[Row]:
        """Yields the rows of whole lines, as `Reader` says."""
        lines, known = self._new_lines(file)
        self._count = len(lines) if known else self._count + len(lines)
        columns = next(csv.reader([_text(self._header)]), [])
        if columns and self._step not in columns:
            raise ValueError(f"must have a column {self._step} with the step, but has {', '.join(columns)}")
        for cells in csv.reader(lines[known:] if len(lines) >= known else lines):
            row = {
                name: number
                for name, cell in zip(columns, cells, strict=False)
                if (number := _number(cell)) is not None
            }
            step = step_of(row.pop(self._step, None))
            if step is not None and row:
                yield {"step": step, "time": None, "values": row}

    def _new_lines(self, file: Path) -> tuple[list[str], int]:
        """Returns lines that came since, or all of a file that was written anew; and how many of them are known."""
        known = 0
        with file.open("rb") as stream:
            header = stream.readline()
            if not header.endswith(b"\n"):
                return [], 0
            if header != self._header or stream.seek(0, 2) < self._place:
                known, self._header, self._place = self._count, header, len(header)
            stream.seek(self._place)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._place += len(whole)
        return _text(whole).splitlines(), known


def _text(data: bytes) -> str:
    return data.decode(errors="replace").removeprefix("\ufeff")


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
