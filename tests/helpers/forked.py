"""A Python that has imported the libraries of a run and forks a child for each process that is to be one.

A child starts at once, where a new process imports for 4.5 s. What imports from this checkout finds our own modules
imported and the config composed once; what imports from a snapshot imports them anew. Each has arguments, environment,
folder, output, signals, exit code and end of its own. Only tests that are about the start itself, or about memory and
groups of processes, need a new process.
"""

from __future__ import annotations

import gc
import io
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import cast

from tests.helpers.forking import sitecustomize

ROOT = Path(__file__).resolve().parents[2]
_START_S = 180.0
_OURS = ("gpt_opt", "hydra_plugins", "tests")


def do_not_wait_for_the_disk(descriptor: object) -> None:
    """Takes the place of `os.fsync`, which 50 times a run keeps what no test looks at: files after a power failure."""


class ForkServer:
    """The side of the tests: a server and the processes that it is asked for.

    Args:
        of_another: The socket of a server that another process has started; without it this one starts its own.

    Attributes:
        socket: Where the server listens, once it has imported.
    """

    def __init__(self, of_another: str = "") -> None:
        self.socket, self._server = of_another, cast("subprocess.Popen[bytes] | None", None)
        self._deadline = time.monotonic() + _START_S
        if of_another:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="forks-", dir="/tmp")  # a socket's path must be short
        self.socket = str(Path(self._folder.name, "socket"))
        command = [sys.executable, "-u", __file__, self.socket]  # not -m, see torchrun in `main`
        environment = {name: value for name, value in os.environ.items() if name != sitecustomize.SERVER}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}  # libraries print
        self._server = subprocess.Popen(command, **pipes, cwd=ROOT, env=environment, start_new_session=True)

    @property
    def environment(self) -> dict[str, str]:
        """What makes every run that is started with it a fork of this server."""
        while not Path(self.socket).exists():
            if time.monotonic() > self._deadline or (self._server is not None and self._server.poll() is not None):
                raise RuntimeError("the server of forks has not come up; try python tests/helpers/forked.py SOCKET")
            time.sleep(0.05)
        folders = [str(Path(sitecustomize.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {sitecustomize.SERVER: self.socket, "PYTHONPATH": os.pathsep.join(folders)}

    @property
    def python(self) -> str:
        """The command line that is Python with what this server has imported, to `-u -c CODE` alone."""
        return shlex.join([sys.executable, sitecustomize.__file__, self.environment[sitecustomize.SERVER]])

    def run(self, command: Sequence[str], cwd: Path | None, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Runs a script of the checkout with its arguments, like `subprocess.run` with text captured."""
        server = self.environment[sitecustomize.SERVER]
        with tempfile.TemporaryDirectory() as folder, open(os.devnull) as nothing:
            files = [Path(folder, name) for name in ("stdout", "stderr")]
            with files[0].open("w") as stdout, files[1].open("w") as stderr:
                streams = [item.fileno() for item in (nothing, stdout, stderr)]
                pid, connection = sitecustomize.fork(server, command, str(cwd or Path.cwd()), streams)
            connection.settimeout(timeout_s)
            with connection:
                try:
                    code = sitecustomize.exit_code(connection)
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(list(command), timeout_s, files[0].read_bytes()) from None
            stdout_text, stderr_text = (file.read_text() for file in files)
        return subprocess.CompletedProcess(list(command), code, stdout_text, stderr_text)

    def close(self) -> None:
        """Ends the server that was started here."""
        if self._server is None:
            return
        assert self._server.stdin is not None
        self._server.stdin.close()
        if not Path(self.socket).exists():  # it imports still, and nobody waits for it
            self._server.kill()
        self._server.wait(10)
        self._folder.cleanup()


def _serve(listening: socket.socket) -> list[str] | None:
    """Forks a child for each connection; returns the command in a child, None when standard input ends.

    A child whose connection ends before it does is killed: what it stands for is gone.
    """
    children: dict[int, tuple[int, socket.socket]] = {}  # by descriptors that tell of their ends
    while True:
        connections = [connection for _, connection in children.values()]
        ready, _, _ = select.select([sys.stdin, listening, *children, *connections], [], [])
        for end, (pid, connection) in list(children.items()):
            if connection in ready:
                os.kill(pid, signal.SIGKILL)
            if connection in ready or end in ready:
                _, status = os.waitpid(pid, 0)
                with suppress(OSError):
                    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
                children.pop(end)
                connection.close()
                os.close(end)
        if sys.stdin in ready:
            for pid, _ in children.values():
                os.kill(pid, signal.SIGKILL)
            return None
        if listening in ready:
            connection, _ = listening.accept()
            size, streams, _, _ = socket.recv_fds(connection, 8, 3)
            text = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL) if size else b""
            if not text:  # whoever asked was killed at once
                for stream in streams:
                    os.close(stream)
                connection.close()
                continue
            request = json.loads(text)
            if not (pid := os.fork()):
                for other in (listening, connection, *(connection for _, connection in children.values())):
                    other.close()
                for end in children:
                    os.close(end)
                return _become(request, streams)
            for stream in streams:
                os.close(stream)
            children[os.pidfd_open(pid)] = (pid, connection)
            with suppress(OSError):
                connection.sendall(pid.to_bytes(8, "big", signed=True))


def _become(request: list[object], streams: Sequence[int]) -> list[str]:
    """Makes this child what was asked for, up to its script."""
    command, cwd, environment, ignored, path = request
    assert isinstance(command, list)
    assert isinstance(environment, dict)
    assert isinstance(ignored, list)
    assert isinstance(path, list)
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # that of the environment
    os.chdir(str(cwd))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the server ignores in the background of a shell
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    buffering = 1 if environment.get("PYTHONUNBUFFERED") else -1
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", buffering, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    added = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = path or [str(Path(command[0]).parent), *added, *sys.path[1:]]
    package = PathFinder.find_spec("gpt_opt")
    if package is None or package.origin != str(ROOT / "gpt_opt" / "__init__.py"):
        for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
            del sys.modules[name]
    return command


def main() -> None:
    """Imports, serves, and is the script in the child."""
    import hydra  # noqa: F401
    import torch.distributed.run
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel  # noqa: F401

    import gpt_opt.cli.views.status
    import gpt_opt.dispatch.submit
    import gpt_opt.own_app.command_line
    import gpt_opt.run.main
    import gpt_opt.training.describe
    import gpt_opt.training.loop
    from gpt_opt.run.prepared import prepare_for_forks
    from gpt_opt.run.program import be, end_at_once

    os.fsync = do_not_wait_for_the_disk
    os.environ["GPTOPT_CACHE"] = str(Path(sys.argv[1]).with_name("cache"))  # not the user's; a child has its own
    prepare_for_forks()
    # After the versions of packages are read: DeepSpeed imports setuptools, which makes those that lie in it visible.
    with suppress(ImportError):  # what DeepSpeed would compile for a minute, the sum over processes of a CPU, torch has
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False
    # What libraries prepare once.
    gpt_opt.own_app.command_line.check_command_line(ROOT / "hydra_conf", ["loss.beta=0.1"])
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):  # a bar of its progress
        config = GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    gc.collect()
    gc.freeze()  # else the collector copies all this memory in every child
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1] + ".new")
        listening.listen(100)
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        command = _serve(listening)
    if command is None:
        return
    if command[0] == "-c":
        exec(command[1], {"__name__": "__main__"})
        end_at_once(0)
    if command[0].endswith("/gptopt"):
        from gpt_opt.cli import main as gptopt  # which the code of a snapshot may have replaced

        sys.argv = command
        end_at_once(gptopt())
    if command[:2] == ["-m", "torch.distributed.run"]:
        sys.argv = command[1:]
        torch.distributed.run.main()  # not by runpy: it would search all modules for each of its frames, and often
        end_at_once(0)
    be(command)


if __name__ == "__main__":
    main()
