"""The metrics of a run of an app, wherever it logs them: read while it runs, and copied into its metrics.jsonl."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt_opt.app.settings import MetricsSource
from gpt_opt.app.sources import READERS
from gpt_opt.app.sources.row import Reader, Row
from gpt_opt.records.io import changed_ns, unfenced
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.step_log import StepLog, metrics_record, own_names, read_metrics

log = logging.getLogger(__name__)

_CUMULATIVE = "trainer_state"
"""The source each file of which has all rows before it, so that the newest counts alone."""


def rows_of(run_dir: Path, source: MetricsSource) -> list[Row]:
    """Returns the rows that a run has logged so far; what cannot be read is named in a warning.

    Where a run went on from a checkpoint, values that it logged again in a further file are left out of the former one,
    and so are those after them.
    """
    return _without_repeats(Follower(run_dir, source).new_rows_by_file(), source)


class Follower:
    """Reads what a run logs while it runs."""

    def __init__(self, run_dir: Path, source: MetricsSource) -> None:
        self._root, self._source = run_dir, source
        self._files = RunPaths(run_dir).metrics.name if source.files is None else source.files
        self._readers: dict[str, Reader] = {}
        self._warned: set[str] = set()

    def new_rows(self) -> list[Row]:
        """Returns the rows since the last call, at the first one all; those of each file in its order."""
        return [row for _, rows in self.new_rows_by_file() for row in rows]

    def new_rows_by_file(self) -> list[tuple[Path, list[Row]]]:
        """Returns what `new_rows` does, each file by itself."""
        found = []
        for name, file in self._current().items():
            reader = self._readers.setdefault(name, READERS[self._source.source](self._source.step))
            rows: list[Row] = []
            try:
                for row in reader.new_rows(file):
                    rows.append(row)  # those before an error stay
            except FileNotFoundError:
                pass  # of a checkpoint that has just been removed
            except (OSError, ValueError, RecursionError) as error:
                self._warn(f"{file}: its metrics cannot be read to the end: {error}")
            found.append((file, rows))
        return found

    def _current(self) -> dict[str, Path]:
        """Returns the files that count now by the name of their reader, each once, in the order of their numbers."""
        files = {os.path.realpath(file): file for file in RunPaths(self._root).matching(self._files)}
        if self._source.source == _CUMULATIVE:
            return {_CUMULATIVE: max(files.values(), key=changed_ns)} if files else {}
        return dict(sorted(files.items(), key=lambda item: _natural(item[0])))

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s", message)


def _natural(path: str) -> list[tuple[int, str]]:
    """Returns a key that sorts `version_2` before `version_10`."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", path)]


def _without_repeats(files: Sequence[tuple[Path, Sequence[Row]]], source: MetricsSource) -> list[Row]:
    kept: list[list[Row]] = []
    again: dict[tuple[str, str], int] = {}
    for file, rows in reversed(files):
        # Attempts number their folders. In folders of other names are other things: train/ and validation/ of Keras.
        series = "" if source.source == "wandb" else re.sub(r"\d+", "", str(file.parent))
        own: list[Row] = []
        for row in rows:
            first = ((name, again.get((series, name), row["step"] + 1)) for name in row["values"])
            values = {name: row["values"][name] for name, step in first if row["step"] < step}
            own += [{**row, "values": values}] if values else []
        for row in rows:
            for name in row["values"]:
                again[series, name] = min(row["step"], again.get((series, name), row["step"]))
        kept.append(own)
    return [row for rows in reversed(kept) for row in rows]


class MetricsCopy:
    """Brings what an app logs into the metrics.jsonl of its run; the caller holds the claim of the run.

    Args:
        run_dir: The run directory.
        source: Where the app logs; with `report` that is metrics.jsonl itself.
        fence: As of `gpt_opt.records.io.append_records`.

    Attributes:
        total_steps: Optimizer steps of the whole run, as the app says; None where it does not.
    """

    def __init__(self, run_dir: Path, source: MetricsSource, fence: Callable[[], None] = unfenced) -> None:
        self._root, self._source = run_dir, source
        self._follower, self._target = Follower(run_dir, source), RunPaths(run_dir).metrics
        self._log = StepLog(self._target, fence)
        self._is_begun = False
        self._last: dict[str, int] = {}
        self.total_steps: int | None = None

    def update(self) -> int | None:
        """Copies what came since the last call.

        The first call, and one with values of a step before the last, write all that the files of the run have anew.

        Returns:
            The highest step among what came; None where nothing did.

        Raises:
            OSError: If metrics.jsonl cannot be written.
        """
        rows = self._follower.new_rows()
        goes_back = self._goes_back(rows)
        if self._source.source != "report" and rows:
            if goes_back or not self._is_begun:
                self._write_anew(min(row["step"] for row in rows) if self._is_begun else None)
            else:
                self._log.extend([_record(row, time.time()) for row in rows])
        self._is_begun = True
        totals = [row["total_steps"] for row in rows if "total_steps" in row]
        self.total_steps = totals[-1] if totals else self.total_steps
        return max((row["step"] for row in rows), default=None)

    def _goes_back(self, rows: Sequence[Row]) -> bool:
        """Returns whether a metric has a step before its last one, as of a run that went on from a checkpoint."""
        found = False
        for row in rows:
            found = found or any(row["step"] < self._last.get(name, 0) for name in row["values"])
            self._last |= dict.fromkeys(row["values"], row["step"])
        return found

    def _write_anew(self, since: int | None) -> None:
        """Writes all rows, those of steps from `since` on as seen now; others were seen before, if at all."""
        seen = {row["step"]: row.get("time") for row in read_metrics(self._target).records}
        now = time.time()
        self._follower = Follower(self._root, self._source)
        rows = _without_repeats(self._follower.new_rows_by_file(), self._source)
        times = [now if since is not None and row["step"] >= since else seen.get(row["step"]) for row in rows]
        self._log.replace(_record(row, moment) for row, moment in zip(rows, times, strict=True))


def _record(row: Row, otherwise: float | None) -> dict[str, Any]:
    """Returns a row as metrics.jsonl has it, with a time that the file itself does not have."""
    return metrics_record(row["step"], otherwise if row["time"] is None else row["time"], own_names(row["values"]))
