"""The warm process of a slot: it has imported what runs need, and forks a clean child for each of them.

A new process imports for 4 to 6 s of CPU before it trains; a fork has that done. The server is started by the first run
of a slot, in the slot's own Slurm task, and ends with what hands the slot its tasks, or when it has been idle. Before a
fork it has no thread of Python, has computed nothing and has not initialised CUDA, none of which a child would survive.

A request is one message on a Unix socket: the length of its JSON in 8 bytes, with the descriptors of standard input,
output and error and of what the child shall keep open; then the JSON, a `Request`. The answers are 8 bytes each: the
child's process id, and at its end its exit code, negative for a signal. A connection that ends before asks the child to
stop, as SIGTERM does. A server that cannot serve closes the connection without an answer.
"""

from __future__ import annotations

import gc
import io
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, cast

from gpt_opt.run.program import be
from gpt_opt.run.signals import SIGNALS, WARNINGS, end_with_parent

IDLE_S = 120.0
"""How long a server waits for a run."""

_MOST_DESCRIPTORS = 64
_READ_S = 10.0


@dataclass(frozen=True)
class Request:
    """What a child becomes.

    Attributes:
        command: A Python script with its arguments, or `-m`, a module and its arguments.
        cwd: Its working directory.
        environment: Its whole environment.
        affinity: The CPUs that it may use.
        ignored: Numbers of the signals that it ignores until it says otherwise.
        code: The folder that it imports from, where the server starts; "" for that of the script.
    """

    command: Sequence[str]
    cwd: str
    environment: Mapping[str, str]
    affinity: Sequence[int]
    ignored: Sequence[int]
    code: str = ""

    @property
    def folder(self) -> str:
        """The folder that it imports from."""
        return self.code or str(Path(self.command[0]).parent)


def send(connection: socket.socket, request: Request, descriptors: Sequence[int]) -> None:
    """Asks for a child; the first answer is its process id.

    Args:
        connection: To a server.
        request: What it becomes.
        descriptors: Standard input, output and error, and what it keeps open.

    Raises:
        OSError: If the server does not take it.
    """
    text = json.dumps(asdict(request)).encode()
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], list(descriptors))
    connection.sendall(text)


def receive(connection: socket.socket) -> int | None:
    """Waits for the next answer; None where the server has ended."""
    with suppress(ConnectionResetError):
        answer = _exactly(connection, 8)
        return int.from_bytes(answer, "big", signed=True) if answer else None
    return None


def _exactly(connection: socket.socket, size: int) -> bytes:
    """Reads so many bytes; none where the other side has ended before."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return b""
        data += part
    return data


# -- the server -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Imports, serves, and becomes the run in a child: `warm PATH PARENT MODULE...`, with a socket as standard input.

    PATH is where it listens, PARENT the process with which the server ends. The modules must compute nothing.
    """
    listening, path, parent = socket.socket(fileno=os.dup(0)), Path(sys.argv[1]), os.pidfd_open(int(sys.argv[2]))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)
    with _ending_with(parent, path):
        for name in sys.argv[3:]:
            import_module(name)
    for number in SIGNALS:  # the runs heed them, and their slot
        signal.signal(number, signal.SIG_IGN)
    command = _Server(listening, path, parent).serve()
    if command is not None:
        be(command)


@contextmanager
def _ending_with(parent: int, path: Path) -> Iterator[None]:
    """Ends this process with another one, whatever the block does.

    Args:
        parent: A descriptor of the other process.
        path: A file that goes with them.
    """

    def look(number: int, frame: FrameType | None) -> None:
        if select.select([parent], [], [], 0)[0]:
            path.unlink(missing_ok=True)
            os._exit(0)

    signal.signal(signal.SIGALRM, look)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@dataclass
class _Child:
    """A run.

    Attributes:
        pid: Its process id.
        connection: To the slot that asked for it.
        has_ended: Whether it has; it is not reaped before the slot knows, which might send a signal to its id.
        is_orphan: Whether the slot has ended before it.
    """

    pid: int
    connection: socket.socket
    has_ended: bool = False
    is_orphan: bool = False

    def stop(self) -> None:
        """Asks it to checkpoint and end."""
        os.kill(self.pid, signal.SIGTERM)

    def tell_end(self) -> None:
        """Tells the slot the exit code."""
        end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        self.has_ended = True
        with suppress(OSError):
            self.connection.sendall(code.to_bytes(8, "big", signed=True))


class _Server:
    """Forks until what it serves has ended.

    Args:
        listening: The socket.
        path: Where that lies.
        parent: Descriptor of the process that hands the slot its tasks.
    """

    def __init__(self, listening: socket.socket, path: Path, parent: int) -> None:
        self._listening, self._path, self._parent = listening, path, parent
        self._children: dict[int, _Child] = {}
        self._imported = dict(_module_files())
        self._ends = False

    def serve(self) -> Sequence[str] | None:
        """Returns the command of a child in that child, None in the server when it ends."""
        gc.collect()
        gc.freeze()  # else the collector copies all this memory in every child
        while self._children or not self._ends:
            ready = set(select.select(list(self._waited()), [], [], None if self._children else IDLE_S)[0])
            if not ready:
                self._end("")
            for descriptor, child in list(self._children.items()):
                if descriptor in ready and not child.has_ended:
                    child.tell_end()
                if child.connection in ready and not child.has_ended:
                    child.is_orphan = True
                    child.stop()
                if child.has_ended and (child.is_orphan or child.connection in ready):
                    self._forget(descriptor)
            if self._parent in ready:
                self._end("")
                for child in self._children.values():
                    child.stop()
            elif self._listening in ready and (request := self._accept()) is not None:
                return request.command
        return None

    def _waited(self) -> Iterator[Any]:
        """Yields all that something may come of."""
        yield from (descriptor for descriptor, child in self._children.items() if not child.has_ended)
        yield from (child.connection for child in self._children.values() if not child.is_orphan)
        if not self._ends:
            yield from (self._parent, self._listening)

    def _forget(self, descriptor: int) -> None:
        child = self._children.pop(descriptor)
        os.waitpid(child.pid, 0)
        os.close(descriptor)
        child.connection.close()

    def _end(self, reason: str) -> None:
        """Takes no further runs."""
        self._ends = True
        self._path.unlink(missing_ok=True)
        self._listening.close()
        if reason:
            self._say(f"ends, for {reason}")

    def _accept(self) -> Request | None:
        """Forks for the next request; returns it in the child."""
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            self._say(f"a run starts cold: {error}")
            time.sleep(1)  # until there are descriptors again
            return None
        found = _read(connection)
        if found is None:
            connection.close()
            return None
        request, descriptors = found
        child = None
        if reason := _unfit(self._imported):
            self._end(reason)
        elif os.path.isdir(request.cwd):  # else the slot itself says what is wrong
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # none is lost before the child has its own handlers
            server = os.getpid()
            try:
                pid = os.fork()
            except OSError as error:
                pid = -1
                self._say(f"a run starts cold: {error}")
            if not pid:
                self._leave(connection)
                _become(request, descriptors, server)
                return request
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            if pid > 0:
                child = _Child(pid, connection)
                self._children[os.pidfd_open(pid)] = child
        for descriptor in descriptors:
            os.close(descriptor)
        if child is None:
            connection.close()
            return None
        with suppress(OSError):
            connection.sendall(child.pid.to_bytes(8, "big", signed=True))
        return None

    def _say(self, text: str) -> None:
        print(f"warm process {os.getpid()}: {text}", file=sys.stderr, flush=True)

    def _leave(self, connection: socket.socket) -> None:
        """Closes in a child what is the server's."""
        for descriptor, child in self._children.items():
            os.close(descriptor)
            child.connection.close()
        os.close(self._parent)
        self._listening.close()
        connection.close()


def _read(connection: socket.socket) -> tuple[Request, list[int]] | None:
    """Reads a request of this user; None where there is none, or whoever asked has gone."""
    connection.settimeout(_READ_S)
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    descriptors: list[int] = []
    with suppress(OSError, ValueError, TypeError):
        size, descriptors, _, _ = socket.recv_fds(connection, 8, _MOST_DESCRIPTORS)
        text = _exactly(connection, int.from_bytes(size, "big")) if len(size) == 8 else b""
        if user == os.getuid() and text and len(descriptors) >= 3:
            request = Request(**json.loads(text))
            connection.setblocking(False)
            with suppress(BlockingIOError):
                if connection.recv(1, socket.MSG_PEEK) == b"":
                    raise ConnectionError
            connection.setblocking(True)
            return request, descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    return None


def _module_files() -> Iterator[tuple[str, int]]:
    """Yields the files of what is imported, each with the time of its last change, ns."""
    for module in list(sys.modules.values()):
        file = vars(module).get("__file__")
        if isinstance(file, str):
            with suppress(OSError):
                yield file, os.stat(file).st_mtime_ns


def _unfit(imported: Mapping[str, int]) -> str:
    """Returns why this process must not fork a run, "" if it may.

    Args:
        imported: The files of what it has imported, with their times then.
    """
    if threading.active_count() > 1:
        return f"it has threads: {', '.join(thread.name for thread in threading.enumerate())}"
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("/dev/nvidia"):
                return "CUDA is initialised, which a child would not survive"
    for file, time_ns in imported.items():
        try:
            if os.stat(file).st_mtime_ns == time_ns:
                continue
        except OSError:
            pass
        return f"{file} has changed since it was imported"
    return ""


def _become(request: Request, descriptors: Sequence[int], server: int) -> None:
    """Makes this child of the process `server` what was asked for, up to its script."""
    os.setsid()
    end_with_parent()  # as where its slot has started it
    os.environ.clear()
    os.environ.update(request.environment)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in request.ignored else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (numbers := sys.modules.get("numpy.random")) is not None:
        numbers.seed()  # else all runs that give no seed draw alike; Python's own are drawn anew after a fork
    for target, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    for descriptor in descriptors[3:]:
        os.set_inheritable(descriptor, True)
    streams = {"stdin": open(0, closefd=False)}  # noqa: SIM115
    for descriptor, name in enumerate(("stdout", "stderr"), start=1):
        before, raw = getattr(sys, name), io.FileIO(descriptor, "w", closefd=False)
        # Without a buffer, as PYTHONUNBUFFERED has it.
        streams[name] = io.TextIOWrapper(cast("Any", raw), before.encoding, before.errors, write_through=True)
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.chdir(request.cwd)
    with suppress(OSError):  # they were taken away meanwhile
        os.sched_setaffinity(0, request.affinity)
    if os.getppid() != server:  # which ended before the kernel was told what to do then
        os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


if __name__ == "__main__":
    main()
