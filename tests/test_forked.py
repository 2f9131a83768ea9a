"""A forked run is, to whoever started it, the process that was started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

SCRIPT = """
import json, os, signal, sys, time
import gpt_opt
def leave(number, frame):
    os.write(1, b"asked to end")
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
ignored = signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
has_torch = "torch" in sys.modules
facts = [sys.argv[1:], os.getcwd(), os.environ["COLOUR"], os.getpid(), gpt_opt.__file__, has_torch, ignored]
print(json.dumps(facts), flush=True)
print("error", file=sys.stderr)
time.sleep(float(sys.argv[1]))
"""

Starter = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, run_forks: Mapping[str, str]) -> Starter:
    (tmp_path / "gpt_opt").mkdir()
    (tmp_path / "gpt_opt" / "__init__.py").touch()
    (tmp_path / "run_hydra.py").write_text(SCRIPT)
    environment = {**os.environ, **run_forks, "COLOUR": "blue"}

    def start(seconds: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(tmp_path / "run_hydra.py"), seconds],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env=environment,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        )

    return start


def test_it_has_what_it_was_started_with_and_the_code_that_lies_beside_it(start: Starter, tmp_path: Path) -> None:
    process = start("0")
    line, _, rest = process.communicate(timeout=60)[0].partition("\n")
    arguments, cwd, colour, pid, code, has_torch, ignored = json.loads(line)
    assert (arguments, cwd, colour, ignored) == (["0"], str(tmp_path), "blue", True)
    assert pid != process.pid
    assert code == str(tmp_path / "gpt_opt" / "__init__.py")
    assert has_torch, "this shows that it is a fork"
    assert rest == "error\n"
    assert process.returncode == 0


def test_it_is_told_of_signals_and_its_end_is_that_of_the_process(start: Starter) -> None:
    process = start("60")
    assert process.stdout is not None
    pid = json.loads(process.stdout.readline())[3]
    process.terminate()
    assert "asked to end" in process.communicate(timeout=60)[0]
    assert process.returncode == 7
    process = start("60")
    assert process.stdout is not None
    pid = json.loads(process.stdout.readline())[3]
    os.kill(pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL


def test_it_is_killed_with_the_process(start: Starter) -> None:
    process = start("60")
    assert process.stdout is not None
    pid = json.loads(process.stdout.readline())[3]
    process.kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "the fork outlives what it stands for"
        time.sleep(0.01)
