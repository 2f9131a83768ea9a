"""metrics.jsonl, which `gpt_opt.report` writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gpt_opt.app.sources.row import BinaryLog, Row, step_of
from gpt_opt.records.io import number, parse_line
from gpt_opt.records.step_log import NOT_METRICS


class Report:
    """Reads one file."""

    def __init__(self) -> None:
        self._log = BinaryLog(_lines)

    def new_rows(self, file: Path) -> Iterator[Row]:
        """Yields the rows, as `Reader` says; lines that are none are left out."""
        for line in self._log.new(file):
            try:
                record = parse_line(line)
            except ValueError:
                continue
            if (step := step_of(record.get("step"))) is not None:
                named = {name: _value(value) for name, value in record.items() if name not in NOT_METRICS}
                values = {name: value for name, value in named.items() if value is not None}
                row: Row = {"step": step, "time": number(record.get("time")), "values": values}
                if (total := step_of(record.get("total_steps"))) is not None:
                    row["total_steps"] = total
                yield row


def _value(value: object) -> float | None:
    return float("nan") if value is None else number(value)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while (line := stream.readline()).endswith(b"\n"):
        yield line
