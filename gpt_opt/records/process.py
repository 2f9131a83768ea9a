"""Who a process is, whether one that said so is still there, and what counts its memory."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Owner:
    """The identity of a process that outlives it.

    Attributes:
        host: Host name, for people.
        machine: Boot id and pid namespace: two processes can judge each other by pid only where these agree.
        pid: Process id.
        pid_start: Start time of the process in clock ticks since boot; tells a reused pid from the old one.
    """

    host: str
    machine: str
    pid: int
    pid_start: int

    def to_record(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Owner:
        """Reads what `to_record` wrote.

        Raises:
            ValueError: If a field is missing or of another type.
        """
        try:
            return cls(str(record["host"]), str(record["machine"]), int(record["pid"]), int(record["pid_start"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"an owner needs host, machine, pid and pid_start, but got {record}") from error

    def is_dead(self) -> bool:
        """Returns whether the process is known to have ended; False also when this machine cannot know."""
        return self.machine == _machine() and _pid_start(self.pid) != self.pid_start

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    if not (boot.exists() and namespace.is_symlink()):
        return f"unknown-{socket.gethostname()}"
    return f"{boot.read_text().strip()} {os.readlink(namespace)}"


def _pid_start(pid: int) -> int:
    """Returns the start time of `pid`, or -1 when it does not exist (a zombie does not count as existing).

    psutil's start time counts from the epoch and moves when the clock is set, which would make a living owner dead.
    """
    try:
        # The command name (field 2) may hold spaces and parentheses; what follows the last ')' does not.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def lives(pid: int) -> bool:
    """Returns whether a process of this machine has not ended."""
    return _pid_start(pid) != -1


def this_process() -> Owner:
    """Returns the identity of the calling process."""
    return Owner(socket.gethostname(), _machine(), os.getpid(), _pid_start(os.getpid()))


def memory_cgroups() -> Iterator[tuple[int, Path, Path]]:
    """Yields version (1 or 2), root and folder of the cgroups that count the memory of this process."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(",") or not controllers:
                root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
                yield 1 if controllers else 2, root, root / path.lstrip("/")
