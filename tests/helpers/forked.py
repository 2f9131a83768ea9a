"""A Python that has imported what a run needs and forks a child for each command line.

A child starts in a tenth of a second, where a new process imports for 4.5 s. It is a process like any other: its own
arguments, environment, folder, output, exit code and end. Only tests that are about the start itself need a new one.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ForkServer:
    """The side of the tests: one server, one child at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.helpers.forked"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def run(self, command: Sequence[str], cwd: Path | None, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Runs a script of the checkout with its arguments, like `subprocess.run` with text captured."""
        assert self._server.stdin is not None
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("stdout", "stderr")]
            request = [list(command), str(cwd or Path.cwd()), dict(os.environ), [str(file) for file in files]]
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            pid = int(self._answer(timeout_s))
            try:
                code = int(self._answer(timeout_s))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._answer(timeout_s)
                raise subprocess.TimeoutExpired(list(command), timeout_s, files[0].read_bytes()) from None
            stdout, stderr = (file.read_text() for file in files)
        return subprocess.CompletedProcess(list(command), code, stdout, stderr)

    def _answer(self, timeout_s: float) -> str:
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], timeout_s)[0]:
            raise TimeoutError
        return self._server.stdout.readline()

    def close(self) -> None:
        """Ends the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)


def _serve() -> Sequence[str] | None:
    """Forks a child for each line of standard input; returns the command in a child, None at the end."""
    while line := sys.stdin.readline():
        command, cwd, environment, files = json.loads(line)
        if not (pid := os.fork()):
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(cwd)
            for descriptor, file in enumerate([os.devnull, *files]):
                os.dup2(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
            return command
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def main() -> None:
    """Imports, serves, and is the script in the child."""
    import hydra  # noqa: F401
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel  # noqa: F401

    import gpt_opt.plan.validate
    import gpt_opt.run.main
    import gpt_opt.training.loop  # noqa: F401

    if command := _serve():
        sys.argv = list(command)
        sys.path[:1] = [str(Path(command[0]).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
