"""How a slot on another node is asked to stop: lines appended to `control.jsonl`, which every slot reads.

Signals do not reach a run through disBatch (`scancel --signal` ends its workers), so the shared file system carries the
word. The file exists from the start and is appended to in place: opening it makes a network file system ask the server,
which looking for a new file name would not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.records.io import append_records, now, read_lines

POLL_S = 2.0
"""How often a slot looks."""


@dataclass(frozen=True)
class Control:
    """What was asked for.

    Attributes:
        drained: Drivers, by `driver_name`, whose slots start no run and stop those they have.
        cancelled: Run ids that shall stop and not be started again.
    """

    drained: frozenset[str]
    cancelled: frozenset[str]

    def stops(self, driver: str | None, run_id: str) -> bool:
        """Returns whether a run that a slot of a driver has shall stop."""
        return driver in self.drained or run_id in self.cancelled


def _append(file: Path, record: dict[str, str]) -> None:
    append_records(file, [{**record, "time": now()}])


def driver_name(shape: int | None, attempt: int) -> str:
    """Returns what a driver is called: its shape, and the attempt of its claim.

    A process id or the id of a job would come again, on another day or cluster.
    """
    return f"{shape or 0}.{attempt}"


def drain(file: Path, driver: str) -> None:
    """Asks the slots of a driver, by its `driver_name`, to let their runs checkpoint and to start none."""
    _append(file, {"drain": driver})


def cancel(file: Path, run_id: str) -> None:
    """Asks whoever runs `run_id` to checkpoint and stop; nothing starts it again before `allow`."""
    _append(file, {"cancel": run_id})


def allow(file: Path, run_id: str) -> None:
    """Takes a `cancel` back."""
    _append(file, {"allow": run_id})


def read(file: Path) -> Control:
    """Reads what was asked for so far; a line that is not whole yet is left for the next time."""
    drained: set[str] = set()
    cancelled: set[str] = set()

    def add(record: dict[str, Any]) -> None:
        if "drain" in record:
            drained.add(record["drain"])
        if "cancel" in record:
            cancelled.add(record["cancel"])
        cancelled.discard(record.get("allow", ""))

    read_lines(file, add)
    return Control(frozenset(drained), frozenset(cancelled))
