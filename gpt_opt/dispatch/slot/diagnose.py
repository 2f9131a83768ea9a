"""Why a run's process ended: what is known of its end, and a table of rules that give the cause."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt_opt.errors import FULL_DISK
from gpt_opt.records.planned_configs import CHANGED
from gpt_opt.records.process import memory_cgroups
from gpt_opt.records.state import RunState, State

_LONGEST = 300
"""Characters of a message that comes from a log."""


@dataclass(frozen=True)
class End:
    """What is known of a run when its process has ended.

    Attributes:
        code: Exit code, negative for a signal.
        stderr_tail: The last lines that this attempt wrote to its error log, without empty ones.
        state: What state.json says; None where it cannot be read.
        unreadable: Why it cannot; "" where it can.
        is_done: Whether the run is COMPLETED with a result.
        is_own: Whether the state was written by this attempt.
        stop_requested: Whether the slot or the user asked the run to stop.
        is_cancelled: Whether the user cancelled it.
        released: Whether the claim on the run was given back.
        processes: Number of processes of the run, on all nodes.
        oom_kills: How many processes the kernel killed during the attempt because memory ran out.
    """

    code: int
    stderr_tail: Sequence[str] = ()
    state: RunState | None = None
    unreadable: str = ""
    is_done: bool = False
    is_own: bool = False
    stop_requested: bool = False
    is_cancelled: bool = False
    released: bool = False
    processes: int = 1
    oom_kills: int = 0

    @property
    def first_problem(self) -> str:
        """The first problem of a wrong request, as the error log lists them; its last line where it lists none."""
        return _first_problem(self.stderr_tail)[:_LONGEST] or self.last_line

    @property
    def last_line(self) -> str:
        """The last line of the error log."""
        return self.stderr_tail[-1][:_LONGEST] if self.stderr_tail else ""

    @property
    def failed(self) -> bool:
        """Whether this attempt wrote down its own failure."""
        return self.is_own and self.is_in(State.FAILED)

    @property
    def error(self) -> tuple[str, str, str]:
        """Type, message and traceback of the failure that was written down."""
        record = (self.state.error if self.state is not None else None) or {}
        return record.get("type", "Exception"), record.get("message", ""), record.get("traceback", "")

    @property
    def signal(self) -> int:
        """The signal that ended the process, or a shell or torchrun in its place; 0 for none."""
        return -self.code if self.code < 0 else max(0, self.code - 128)

    @property
    def stopped(self) -> bool:
        """Whether the run stopped because it was asked to."""
        # Of a run of several processes, torchrun stops the others politely when one was killed.
        politely = self.processes == 1 and self.is_own and self.released
        return self.stop_requested or (politely and self.is_in(State.INTERRUPTED))

    def is_in(self, state: State) -> bool:
        """Returns whether state.json says so."""
        return self.state is not None and self.state.state is state

    def line_with(self, text: str) -> str:
        """Returns the first of the last lines of the error log that has a text, or ""."""
        return next((line for line in self.stderr_tail if text in line), "")


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        cause: Key of `gpt_opt.records.attempts.CAUSES`.
        holds: Whether the end is of this kind.
        message: What to say of it beside the cause.
    """

    cause: str
    holds: Callable[[End], bool]
    message: Callable[[End], str] = lambda end: ""


def _error_line(end: End) -> str:
    kind, message, _ = end.error
    lines = [line.strip() for line in message.strip().splitlines()]
    return f"{kind}: {_first_problem(lines) or lines[0]}" if lines else kind


def _first_problem(lines: Sequence[str]) -> str:
    """Returns the first problem of those that our errors list; "" where the lines list none."""
    return next((line[2:] for line in lines if line.startswith("- ")), "")


def _changed_config(end: End) -> str:
    return "".join(end.line_with(CHANGED).partition(CHANGED)[1:])  # without the run's id: equal for equal edits


def _full_disk(text: str) -> str:
    return next((words for words in FULL_DISK if words in text), "")


def _full_disk_of_log(end: End) -> str:
    return _full_disk("\n".join(end.stderr_tail))


def _is_gpu_memory(end: End) -> bool:
    kind, message, _ = end.error
    return "OutOfMemoryError" in kind or "CUDA out of memory" in message


def _is_memory(end: End) -> bool:
    kind, message, _ = end.error
    return kind == "MemoryError" or "can't allocate memory" in message


RULES: tuple[Rule, ...] = (
    Rule("exception", lambda end: bool(end.unreadable), lambda end: end.unreadable),
    Rule("completed", lambda end: end.is_done),
    # It wrote its own failure into state.json.
    Rule("out_of_gpu_memory", lambda end: end.failed and _is_gpu_memory(end), _error_line),
    Rule("out_of_memory", lambda end: end.failed and _is_memory(end), _error_line),
    Rule("no_space", lambda end: end.failed and bool(_full_disk("".join(end.error[1:]))), _error_line),
    Rule("request", lambda end: end.failed and end.code == 2, _error_line),
    Rule("exception", lambda end: end.failed, _error_line),
    # It was refused before it began. Under torchrun the code is 1, whatever the process itself ended with.
    Rule("changed_config", lambda end: bool(end.line_with(CHANGED)), _changed_config),
    Rule("request", lambda end: end.code == 2, lambda end: end.first_problem),
    # It was stopped, or never had the run.
    Rule("cancelled", lambda end: end.stopped and end.is_cancelled),
    Rule("stopped", lambda end: end.stopped),
    Rule("held", lambda end: end.is_in(State.RUNNING), lambda end: end.last_line),
    # It was killed. Python exits with 1 where one of its own processes was.
    Rule(
        "out_of_memory",
        lambda end: end.code in (-signal.SIGKILL, 1) and end.oom_kills > 0,
        lambda end: "killed by the kernel because memory ran out",
    ),
    Rule("killed", lambda end: end.code < 0 or end.code >= 128, lambda end: f"signal {end.signal}"),
    Rule("no_space", lambda end: bool(_full_disk_of_log(end)), lambda end: _full_disk_of_log(end).lower()),
    Rule("killed", lambda end: end.is_own and end.is_in(State.INTERRUPTED), lambda end: "a process of the run"),
    Rule("exception", lambda end: True, lambda end: end.last_line),
)
"""The rules in order; the first that holds gives the cause."""


def diagnose(end: End) -> tuple[str, str]:
    """Returns the cause of an end, a key of `CAUSES`, and a message, which may be empty."""
    rule = next(rule for rule in RULES if rule.holds(end))
    return rule.cause, rule.message(end)


def oom_kills() -> int:
    """Returns how many processes like this one the kernel has killed because memory ran out.

    They are those of its memory cgroup, which a job has of its own on most clusters; else all of this node.
    """
    counts = {1: "memory.oom_control", 2: "memory.events"}
    for file in (*(folder / counts[version] for version, _, folder in memory_cgroups()), Path("/proc/vmstat")):
        with suppress(OSError):
            for line in file.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0
