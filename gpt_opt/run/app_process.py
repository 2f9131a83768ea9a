"""The process of an application: started anew, or forked out of one that has imported what it needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from gpt_opt.app.settings import AppSettings
from gpt_opt.run.program import be
from gpt_opt.run.signals import WARNINGS, end_with_parent


class Process:
    """An application's process, the first of those that this process has; it dies with this one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None
        self._is_stopping = False

    def wait(self, timeout_s: float) -> int | None:
        """Returns its exit code, negative for a signal; None if it has not ended within so many seconds.

        Where it was asked to end, so was all that it has started, and none of that is there any more.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if self._code is None and self._has_ended() and self._is_stopping:
                _signal_all(signal.SIGTERM)  # a shell, which has left the program that it started behind
            if self._code is not None and not (self._is_stopping and _descendants()):
                self.kill()  # workers that it has left behind
                return self._code
            if time.monotonic() >= deadline:
                return None
            time.sleep(min(0.05, timeout_s))

    def _has_ended(self) -> bool:
        """Takes note of what has ended, the orphans among it too."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self.pid:
                    self._code = os.waitstatus_to_exitcode(found[1])
        return self._code is not None

    def stop(self) -> None:
        """Asks it to end."""
        self._is_stopping = True
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it, and all that it has started."""
        self._is_stopping = False
        for _ in range(_KILLS):
            if not _signal_all(signal.SIGKILL):
                return
            time.sleep(0.02)


_KILLS = 20
"""How often is looked for what was started meanwhile."""


def _signal_all(number: signal.Signals) -> int:
    """Sends a signal to all descendants; returns how many there are."""
    found = _descendants()
    for process in found:
        with suppress(psutil.Error):
            process.send_signal(number)
    return len(found)


def _descendants() -> list[psutil.Process]:
    """Returns the processes that this one and those below it have started, without those that have ended."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Starter:
    """Starts an application in a new process."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Starts it with these words after the name of its script, or with all the words of a command."""
        app = self._settings
        command = list(words)
        if app.script is not None:
            command = [sys.executable, str(app.script), *words]
        elif app.module is not None:
            # -P: the modules are those of the code it was planned with, not of the working directory
            command = [sys.executable, "-P", "-m", app.module, *words]
        started = subprocess.Popen(
            command, env=dict(environment), close_fds=False, start_new_session=True, preexec_fn=_die_with_parent
        )
        started.returncode = 0  # `Process` waits for it
        return Process(started.pid)


class WarmStarter:
    """Forks an application out of a process that has imported what it needs, before there is any thread.

    Attributes:
        words: In the forked process, what it is to run with; None in the other.
    """

    def __init__(self, settings: AppSettings) -> None:
        self._settings, self.words = settings, None
        reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(reader)
            self._told = writer
            return
        os.close(writer)
        os.setsid()
        _die_with_parent()
        with os.fdopen(reader, "rb") as told:
            text = told.read()
        if not text:
            os._exit(0)  # there was nothing to run
        self.words, environment = json.loads(text)
        os.environ.clear()
        os.environ.update(environment)

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Lets it go on."""
        with os.fdopen(self._told, "wb") as told:
            told.write(json.dumps([list(words), dict(environment)]).encode())
        return Process(self._pid)

    def run(self) -> None:
        """Becomes the application, in the forked process."""
        app, words = self._settings, self.words or []
        if app.script is not None:
            sys.path.insert(0, str(app.script.parent))
            be([str(app.script), *words])
        else:
            be(["-m", str(app.module), *words])


def is_warm(settings: AppSettings) -> bool:
    """Returns whether this process has imported what an application asks for."""
    return (
        bool(settings.warm_imports)
        and settings.command is None
        and all(name in sys.modules for name in settings.warm_imports)
    )


def _die_with_parent() -> None:
    """Makes the kernel end this process with the one that watches it, so that none works on a run unwatched."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for number in WARNINGS:  # which Slurm sends to every process of a step; they would end it without its grace
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent(signal.SIGKILL)
