"""Makes a Python that is about to be a run, or a `gptopt`, the stand-in of a fork of tests/helpers/forked.py.

A test puts this folder on PYTHONPATH and the server's socket into GPTOPT_TEST_FORKS. The stand-in has the process id,
the environment and the parent of what was started; it passes signals on to the fork and ends as that does. The fork is
killed when the stand-in is.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

SERVER = "GPTOPT_TEST_FORKS"
NEW_TORCHRUN = "GPTOPT_TEST_NEW_TORCHRUN"
"""Set where torchrun itself is to be a new process: its children are the stand-ins of its workers."""
WARM = "gpt_opt.run.warm"
_WITH_PROCESSES = ("drive", "exec")
"""Verbs whose processes Slurm, or the test, has to find below them."""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def command_of(arguments: list[str]) -> list[str]:
    """Returns the command of a run, its torchrun, a warm process, a job of submitit's or gptopt; nothing of others."""
    while arguments[:1] in (["-u"], ["-P"]):  # as torchrun starts its workers, and gpt_opt its own
        arguments = arguments[1:]
    torchrun = arguments[:2] == ["-m", "torch.distributed.run"] and NEW_TORCHRUN not in os.environ
    module = arguments[:2] in (["-m", "submitit.core._submit"], ["-m", WARM])
    script = arguments[:1] and arguments[0].endswith("/run_hydra.py")
    verb = arguments[:1] and arguments[0].endswith("/gptopt") and arguments[1:2] and arguments[1] not in _WITH_PROCESSES
    return arguments if torchrun or module or script or verb else []


def fork(
    server: str, command: Sequence[str], cwd: str, streams: Sequence[int], path: Sequence[str] = ()
) -> tuple[int, socket.socket]:
    """Asks the server for a fork; returns its process id and the connection, on which its exit code comes.

    Args:
        server: Its socket.
        command: A script or `-m` and a module, and arguments.
        cwd: The working directory.
        streams: The descriptors of standard input, output and error.
        path: Where Python imports from; empty for the script's own folder, PYTHONPATH and the server's own.
    """
    ignored = [int(number) for number in _PASSED_ON if signal.getsignal(number) is signal.SIG_IGN]
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server)
    text = json.dumps([list(command), cwd, dict(os.environ), ignored, list(path)]).encode()
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], list(streams))
    connection.sendall(text)
    return _number(connection), connection


def exit_code(connection: socket.socket) -> int:
    """Waits for the end of a fork and returns its exit code, negative for a signal."""
    return _number(connection)


def _number(connection: socket.socket) -> int:
    if len(answer := connection.recv(8, socket.MSG_WAITALL)) < 8:
        raise ConnectionError("the fork server has ended")
    return int.from_bytes(answer, "big", signed=True)


def _stand_in(server: str, command: list[str]) -> None:
    """Is the fork of a command, to whoever started this process."""
    folder = os.getcwd() if command[0] in ("-m", "-c") else os.path.dirname(command[0])
    path = [*([] if sys.flags.safe_path else [folder]), *sys.path]
    pid, connection = fork(server, command, os.getcwd(), [0, 1, 2], path)

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in _PASSED_ON:  # also what is ignored: the fork ignores it too, unless it has a handler by now
        signal.signal(number, pass_on)
    code = exit_code(connection)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":  # as `tests/conftest.py` has a worker of pytest started: SOCKET -u -c CODE
    _stand_in(sys.argv[1], sys.argv[3:])
if SERVER in os.environ and (asked := command_of(sys.orig_argv[1:])):
    _stand_in(os.environ[SERVER], asked)
