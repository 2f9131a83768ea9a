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
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from gpt_opt.dispatch.slot.gpus import own_folder
from gpt_opt.dispatch.snapshot import ENTERED
from gpt_opt.records.io import lock
from gpt_opt.records.stop_requests import POLL_S
from gpt_opt.run.planned import RUN_ID, SWEEP_DIR
from gpt_opt.run.warm import Request, receive, send

TASK = "DISBATCH_TASKID"
"""Environment variable of a task of disBatch, which has further ones for the slot."""

_OF_ONE_RUN = ("DISBATCH_", "SLURM_", RUN_ID, SWEEP_DIR, ENTERED)
_OF_A_SHELL = ("_", "SHLVL", "PWD", "OLDPWD")
_CONNECT_S = 5.0
_ANSWER_S = 120.0
"""How long a slot waits for a run; a new warm process imports first."""

_TOLD_S = 30.0
"""How long a warm process may take to tell how a run ended that has."""


class WarmProcess:
    """A run that a warm process has forked: what the slot needs of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection, self._end = connection, os.pidfd_open(pid)
        self._ended: float | None = None

    def poll(self) -> int | None:
        """Returns the exit code of a run that has ended, negative for a signal; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Waits for the end, so many seconds; of a run whose warm process was killed the code is that of SIGKILL.

        Raises:
            TimeoutExpired: If it has not ended then.
        """
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("run", timeout)
            self._ended = self._ended or time.monotonic()
            if select.select([self._connection], [], [], timeout)[0]:
                code = receive(self._connection)
            elif time.monotonic() < self._ended + _TOLD_S:
                raise subprocess.TimeoutExpired("run", timeout)
            else:
                code = None
            self.returncode = -signal.SIGKILL if code is None else code
            self._connection.close()
            os.close(self._end)
        return self.returncode


def start(
    request: Request,
    descriptors: Sequence[int],
    log: Path,
    modules: Sequence[str],
    is_stopping: Callable[[], bool] = lambda: False,
) -> WarmProcess:
    """Starts a run in the warm process of this slot.

    Args:
        request: The run.
        descriptors: Standard input, output and error, and what it keeps open.
        log: What a new warm process writes to.
        modules: What that imports.
        is_stopping: Says that nobody waits for the run any more.

    Raises:
        OSError: If there is no warm process and none can be started; TimeoutError if it does not answer.
        GptOptError: If the folder of their sockets belongs to somebody else.
    """
    parent = _parent()
    key = [parent.pid, parent.create_time(), sys.executable, request.folder, *modules, _lasting(request.environment)]
    folder = own_folder(f"warm-{socket.gethostname()}")  # temporary files may lie on a file system of several nodes
    path = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    for _ in range(2):
        problem: OSError = ConnectionError("the warm process of this slot has ended")
        with lock(folder / ".lock"):
            connection = _connect(path) or _serve(path, parent.pid, request, log, modules)
        try:
            connection.settimeout(_ANSWER_S)
            send(connection, request, descriptors)
            if (pid := _answer(connection, is_stopping)) is not None:
                connection.settimeout(None)
                return WarmProcess(connection, pid)
        except InterruptedError:
            connection.close()
            raise
        except TimeoutError:
            path.unlink(missing_ok=True)  # the next run has another one
            connection.close()
            raise
        except OSError as error:
            problem = error
        connection.close()  # it ended, or what it had imported has changed: another one
    raise problem


def _answer(connection: socket.socket, is_stopping: Callable[[], bool]) -> int | None:
    """Waits for the process id of a run; None where the server has ended.

    Raises:
        TimeoutError: If it does not come.
        InterruptedError: If nobody waits for it any more.
    """
    deadline = time.monotonic() + _ANSWER_S
    while not select.select([connection], [], [], POLL_S)[0]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the warm process of this slot did not answer within {_ANSWER_S:.0f} s")
        if is_stopping():
            raise InterruptedError("the slot was asked to stop")
    return receive(connection)


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
        connection.settimeout(_CONNECT_S)
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")  # the path of a socket must be short
        return connection
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    finally:
        os.close(folder)


def _listens(path: Path) -> bool:
    """Returns whether a server has the socket, though it may not answer."""
    try:
        connection = _connect(path)
    except OSError:
        return True
    if connection is not None:
        connection.close()
    return connection is not None


def _serve(path: Path, parent: int, request: Request, log: Path, modules: Sequence[str]) -> socket.socket:
    """Starts a server and returns a connection to it, on which it answers when it has imported."""
    for file in path.parent.glob("[!.]*"):
        if file == path or not _listens(file):
            file.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listening, log.open("ab") as output:
        try:
            listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        listening.listen(64)
        subprocess.Popen(
            [sys.executable, "-m", "gpt_opt.run.warm", str(path), str(parent), *modules],
            cwd=request.folder,
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
