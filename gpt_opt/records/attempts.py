"""The attempts at a run in a sweep, why they ended, and whether another one is allowed.

`attempts/<index>.jsonl` gets a line when a slot starts a run and one when it sees it end. An attempt without an end was
lost with its slot; the next driver reconciles it with what Slurm knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt_opt.records.io import append_records, now, read_lines
from gpt_opt.records.job_id import JobId
from gpt_opt.records.process import Owner


@dataclass(frozen=True)
class Cause:
    """Why an attempt ended.

    Attributes:
        message: For people.
        max_attempts: How many attempts may end so before only `gptopt retry` starts the run; None for any number.
    """

    message: str
    max_attempts: int | None


CAUSES: Mapping[str, Cause] = {
    "completed": Cause("completed", None),
    "exception": Cause("raised an exception", 1),
    "request": Cause("its config or data cannot be used", 1),
    "changed_config": Cause("its config is not the one that was planned", 1),
    "out_of_gpu_memory": Cause("GPU out of memory", 1),
    "out_of_memory": Cause("out of memory", 1),
    "no_space": Cause("no space left on the disk", 1),
    "killed": Cause("killed by a signal", 3),
    "gpu_busy": Cause("its GPU was in use", 3),
    "slot_lost": Cause("lost with its slot", 5),
    "node_failure": Cause("node failed", 5),
    "cancelled": Cause("cancelled", 1),
    "time_limit": Cause("time limit", 100),
    "preempted": Cause("preempted", 100),
    "requeued": Cause("requeued", 100),
    "stopped": Cause("asked to stop", 100),
    "held": Cause("held by another process", 100),
}
"""Every cause of an end. What the machine did is tried again; what the run did waits for `gptopt retry`."""


@dataclass(frozen=True)
class Attempt:
    """One start of a run by a slot.

    Attributes:
        id: Tells attempts apart.
        started: ISO 8601 UTC.
        session: The start of a driver that it belongs to, as `gpt_opt.records.job_id` spells it; None by hand.
        owner: The process of the slot.
        node: Name of the node.
        gpus: Devices it was given.
        mem_gb: Memory that the sweep asked for then; None if it did not say.
        ended: ISO 8601 UTC; None while it runs, and of a lost attempt.
        cause: Key of `CAUSES`; None like `ended`.
        code: Exit code of the run's process, negative for a signal; None if it is not known.
        message: First line of the error, may be empty.
    """

    id: str
    started: str
    session: str | None
    owner: Owner
    node: str
    gpus: tuple[str, ...] = ()
    mem_gb: float | None = None
    ended: str | None = None
    cause: str | None = None
    code: int | None = None
    message: str = ""

    @property
    def job(self) -> JobId | None:
        """The start of a Slurm job that it belongs to; None outside Slurm."""
        found = JobId(self.session or "")
        return found if found.is_slurm else None


@dataclass(frozen=True)
class History:
    """The attempts at one run in one sweep.

    Attributes:
        attempts: Oldest first, those before the last `retry` too.
        reset_count: How many of them, from the oldest, are not counted since the last `gptopt retry`.
        unreadable: Lines of the file that are torn or not ours.
    """

    attempts: tuple[Attempt, ...] = ()
    reset_count: int = 0
    unreadable: int = 0

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    def lost(self) -> list[Attempt]:
        """Returns attempts without an end: lost with their slots, or still running."""
        return [item for item in self.attempts if item.cause is None]

    def exhausted(self, mem_gb: float | None = None) -> str | None:
        """Returns the cause that has reached its `max_attempts`, or None while another attempt is allowed.

        Args:
            mem_gb: Memory that an attempt would get now: out of memory with less does not count.
        """
        counts = Counter(item.cause for item in self.attempts[self.reset_count :] if _counts(item, mem_gb))
        for name, number in counts.items():
            if name is not None and (most := CAUSES[name].max_attempts) is not None and number >= most:
                return name
        return None


def _counts(attempt: Attempt, mem_gb: float | None) -> bool:
    raised = mem_gb is not None and (attempt.mem_gb is None or mem_gb > attempt.mem_gb)
    return not (attempt.cause == "out_of_memory" and raised)


def _append(file: Path, record: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    append_records(file, [record])


def note_start(file: Path, attempt: Attempt) -> None:
    """Appends the start of an attempt."""
    record = {"start": attempt.id, "time": attempt.started, "session": attempt.session, "node": attempt.node}
    _append(file, record | {"gpus": attempt.gpus, "mem_gb": attempt.mem_gb, "owner": attempt.owner.to_record()})


def note_end(file: Path, name: str, cause: str, code: int | None = None, message: str = "") -> None:
    """Appends the end of the attempt `name`; the first end that is noted counts."""
    _append(file, {"end": name, "time": now(), "cause": cause, "code": code, "message": message})


def note_retry(file: Path) -> None:
    """Takes all attempts so far off the count."""
    _append(file, {"retry": now()})


def read_history(file: Path) -> History:
    """Reads the attempts at a run; torn and foreign lines are left out and counted."""
    started: dict[str, Attempt] = {}
    reset_count = 0

    def add(record: dict[str, Any]) -> None:
        nonlocal reset_count
        if "start" in record:
            started[record["start"]] = Attempt(
                id=record["start"],
                started=record["time"],
                session=record["session"],
                owner=Owner.from_record(record["owner"]),
                node=record["node"],
                gpus=tuple(record["gpus"]),
                mem_gb=record["mem_gb"],
            )
        elif "end" in record and started[record["end"]].cause is None:
            cause = record["cause"] if record["cause"] in CAUSES else "exception"
            end = {"ended": record["time"], "cause": cause, "code": record["code"], "message": record["message"]}
            started[record["end"]] = replace(started[record["end"]], **end)
        elif "retry" in record:
            reset_count = len(started)

    lines = read_lines(file, add)
    return History(tuple(started.values()), reset_count, lines.left_out)
