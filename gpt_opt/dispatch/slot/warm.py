"""How a slot gets a run as a child of its warm process, see `gpt_opt.run.warm`, which its first run starts."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from gpt_opt.dispatch.slot.gpus import own_folder
from gpt_opt.dispatch.snapshot import ENTERED
from gpt_opt.records.io import lock
from gpt_opt.run.planned import RUN_ID, SWEEP_DIR
from gpt_opt.run.warm import Request, receive, send

TASK = "DISBATCH_TASKID"
"""Environment variable of a task of disBatch, which has further ones for the slot."""

_OF_ONE_RUN = ("DISBATCH_", "SLURM_", RUN_ID, SWEEP_DIR, ENTERED)
_OF_A_SHELL = ("_", "SHLVL", "PWD", "OLDPWD")
_ANSWER_S = 300.0


class WarmProcess:
    """A run that a warm process has forked: what the slot needs of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection, self._end = connection, os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Returns the exit code of a run that has ended, negative for a signal; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Waits for the end; of a run whose warm process was killed the code is that of SIGKILL.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutExpired: If it has not ended then.
        """
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("run", timeout)
            code = receive(self._connection)
            self.returncode = -signal.SIGKILL if code is None else code
            self._connection.close()
            os.close(self._end)
        return self.returncode


def start(request: Request, descriptors: Sequence[int], log: Path, modules: Sequence[str]) -> WarmProcess:
    """Starts a run in the warm process of this slot.

    Args:
        request: The run.
        descriptors: Standard input, output and error, and what it keeps open.
        log: What a new warm process writes to.
        modules: What that imports.

    Raises:
        OSError: If there is no warm process and none can be started.
        GptOptError: If the folder of their sockets belongs to somebody else.
    """
    parent = _parent()
    key = [parent.pid, parent.create_time(), sys.executable, _code(request), *modules, _lasting(request.environment)]
    folder = own_folder("warm")
    path = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    for is_last in (False, True):
        with lock(folder / ".lock"):
            connection = _connect(path) or _serve(path, parent.pid, request, log, modules)
        try:
            connection.settimeout(_ANSWER_S)
            pid = send(connection, request, descriptors)
            connection.settimeout(None)
            return WarmProcess(connection, pid)
        except OSError:  # it ended, or what it had imported has changed: another one
            connection.close()
            if is_last:
                raise
    raise AssertionError


def _code(request: Request) -> str:
    """Returns the folder that a run's script is in, from which it imports."""
    return str(Path(request.command[0]).parent)


def _parent() -> psutil.Process:
    """Returns what hands this slot its tasks.

    Raises:
        ProcessLookupError: If there is no such process.
    """
    for process in psutil.Process().parents():
        with suppress(psutil.Error):
            if TASK not in process.environ():
                return process
    raise ProcessLookupError("no process of disBatch was found")


def _lasting(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns what of an environment all runs of a slot have; a library may read any of it as it is imported."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_OF_ONE_RUN) and name not in _OF_A_SHELL
    }


def _connect(path: Path) -> socket.socket | None:
    """Returns a connection to a server; None where none listens."""
    connection = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_PATH)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")  # the path of a socket must be short
        return connection
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    finally:
        os.close(folder)


def _serve(path: Path, parent: int, request: Request, log: Path, modules: Sequence[str]) -> socket.socket:
    """Starts a server and returns a connection to it, on which it answers when it has imported."""
    for file in path.parent.iterdir():  # of servers that were killed
        if file == path or (file.is_socket() and (connection := _connect(file)) is None):
            file.unlink(missing_ok=True)
        elif file.is_socket() and connection is not None:
            connection.close()
    folder = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listening, log.open("ab") as output:
        try:
            listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        listening.listen(64)
        subprocess.Popen(
            [sys.executable, "-m", "gpt_opt.run.warm", str(path), str(parent), *modules],
            cwd=_code(request),
            env=_lasting(request.environment),
            stdin=listening.fileno(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        connection = _connect(path)
    if connection is None:
        raise ConnectionRefusedError(f"{path} does not answer")
    return connection
