"""Which signals ask a run to stop, and what stays of a process whose output nobody takes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpt_opt.errors import DiskFull, disk_full, exit_code
from gpt_opt.run import outputs
from gpt_opt.run.signals import SIGNALS, stop_on_signals, stop_signals
from tests.conftest import ROOT


@contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    former = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, former)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_of_an_end_asks_for_a_checkpoint(number: signal.Signals) -> None:
    with stop_on_signals() as stop:
        signal.raise_signal(number)
        assert stop.signal is number


def test_a_signal_that_nohup_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with ignored(signal.SIGHUP):
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert signal.SIGHUP in stop_signals(), "torchrun would kill a worker that does not listen"
        monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT")
        assert signal.SIGHUP not in stop_signals()
    with ignored(signal.SIGUSR2):
        assert signal.SIGUSR2 in stop_signals(), "a slot ignores it for torchrun's sake, not for the run's"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[logging.Logger]:
    former = logging.Handler.handleError, logging.FileHandler.emit
    outputs.work_without_readers()
    logger = logging.getLogger("tests.outputs")
    logger.propagate = False
    yield logger
    logger.handlers.clear()
    logging.Handler.handleError, logging.FileHandler.emit = former  # type: ignore[method-assign]


def test_a_log_on_a_full_disk_is_named_once_and_costs_no_work(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    log.addHandler(logging.FileHandler("/dev/full"))
    for _ in range(3):
        log.error("a line")
    assert (
        capfd.readouterr().err == "/dev/full cannot be written, the work goes on without it: No space left on device\n"
    )


def test_a_log_that_cannot_be_opened_is_named_too(
    log: logging.Logger, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log.addHandler(logging.FileHandler(tmp_path / "gone" / "task.log", delay=True))
    log.error("a line")
    assert "task.log cannot be written, the work goes on without it: No such file" in capfd.readouterr().err


def test_a_closed_pipe_costs_neither_work_nor_words(log: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        log.addHandler(logging.StreamHandler(stream))
        log.error("a line")
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [28, 122])
def test_a_full_disk_and_a_full_quota_are_named_with_the_file(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), "/home/me/run/state.json")

    assert exit_code(main) == 1
    words = f"error: {os.strerror(number)}: /home/me/run/state.json; make room there, then give the same command again"
    assert capsys.readouterr().err.strip() == words
    copying = OSError(number, os.strerror(number), "/here/weights", None, "/there/weights")
    assert str(disk_full(copying)).startswith(f"{os.strerror(number)}: /there/weights; ")
    inner = RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")
    assert isinstance(disk_full(inner), DiskFull)
    silent = AssertionError()
    silent.__cause__ = inner
    assert "AssertionError" in str(disk_full(silent))
    assert disk_full(RuntimeError("boom")) is None


def test_what_may_not_be_written_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(number: int, file: Path) -> str:
        def main() -> None:
            raise OSError(number, os.strerror(number), str(file))

        assert exit_code(main) == 1
        return capsys.readouterr().err.strip()

    new, advice = tmp_path / "sweeps", "go to, or name, a folder that you may write to"
    assert told(errno.EROFS, new) == f"error: Read-only file system: {new}; {advice}"
    may = {os.R_OK}
    monkeypatch.setattr(os, "access", lambda _, mode: mode in may)
    assert told(errno.EACCES, new) == f"error: Permission denied: {new}; {advice}"
    may |= {os.W_OK}
    assert advice not in told(errno.EACCES, new), "it was something else"
    new.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK or path == str(new))
    assert advice in told(errno.EACCES, new), "a file that may be written is replaced in a folder that may not"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert advice not in told(errno.EACCES, new), "it could not be read"


@pytest.mark.parametrize(
    "command",
    ["-m gpt_opt.cli plan --schema", "-m analysis.summarize --json hydra_conf", "run_hydra.py loss.beta=1 --cfg job"],
)
def test_output_into_head_ends_quietly(command: str) -> None:
    read, write = os.pipe()
    os.close(read)  # as `| head -0`
    words = [sys.executable, *command.split()]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_output_on_a_full_disk_is_named() -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "gpt_opt.cli", "plan", "--schema"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
