"""The machine's processes as /proc shows them; a pid is looked at again before it is signalled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One living process. `started` (clock ticks since boot) tells it from a later process with the same pid."""

    pid: int
    parent: int
    started: int
    name: str
    command: str
    environ: dict[str, str]

    def alive(self) -> bool:
        now = read(self.pid)
        return now is not None and now.started == self.started

    def signal(self, number: int) -> None:
        """Sends a signal, unless the process is gone or its pid belongs to another one by now."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def read(pid: int) -> Process | None:
    """Reads one process; None when it has ended, a zombie included."""
    folder = PROC / str(pid)
    try:
        head, _, tail = (folder / "stat").read_text(errors="replace").rpartition(")")
        environ = (folder / "environ").read_bytes().decode(errors="replace")
        command = (folder / "cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = tail.split()
    if fields[0] in "ZX":
        return None
    pairs = (entry.partition("=") for entry in environ.split("\0") if "=" in entry)
    return Process(
        pid=pid,
        parent=int(fields[1]),
        started=int(fields[19]),
        name=head.partition("(")[2],
        command=command.replace("\0", " ").strip(),
        environ={key: value for key, _, value in pairs},
    )


def everything() -> dict[int, Process]:
    """Returns all living processes that may be looked at, by pid."""
    found = (read(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit())
    return {process.pid: process for process in found if process is not None}


def end(processes: Iterable[Process], grace_s: float) -> None:
    """Asks processes to end, and kills those that have not after `grace_s` seconds; returns when all are gone."""
    left = list(processes)
    for process in left:
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while left := [process for process in left if process.alive()]:
        if time.monotonic() > deadline:
            for process in left:
                process.signal(signal.SIGKILL)
        time.sleep(0.02)


def kill_all(find: Callable[[], Iterable[Process]]) -> None:
    """Kills what `find` finds as one: all are stopped first, so that none can start or tell another meanwhile."""
    held: dict[tuple[int, int], Process] = {}
    while new := [process for process in find() if (process.pid, process.started) not in held]:
        for process in new:
            process.signal(signal.SIGSTOP)
            held[process.pid, process.started] = process
    for process in held.values():
        process.signal(signal.SIGKILL)
    while any(process.alive() for process in held.values()):
        time.sleep(0.01)
