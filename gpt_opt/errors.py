"""The one exception root of gpt-opt and its few subclasses.

Only the command line turns these into exit codes: 2 for a wrong request, 1 for a run that failed.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


class GptOptError(Exception):
    """Root of every error that gpt-opt raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request.

    Attributes:
        where: The config key, or `file:line`, that the problem is about.
        message: What must hold and what came instead.
        fix: What to do next; may be empty when the message already says so.
    """

    where: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f"\n      {self.fix}" if self.fix else "")


class RequestError(GptOptError):
    """A request that cannot be carried out as asked; carries all of its problems at once (exit code 2)."""

    def __init__(self, problems: Sequence[Problem], consequence: str = "") -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{count}{consequence}:", *(f"  - {p}" for p in self.problems)]))


class ConfigError(RequestError):
    """The configuration is incomplete or contradicts itself."""


class SweepError(RequestError):
    """A sweep file does not describe a sweep."""


class DataError(RequestError):
    """Training data cannot be used as it is."""


class ClaimLost(GptOptError):
    """Another process owns the run directory now; this one must not write to it any more."""


class RunFailed(GptOptError):
    """A run ended without a result; its state.json says why (exit code 1)."""


FULL_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""The system's words for a disk that is full, and for a user's share of it that is."""


class DiskFull(GptOptError):
    """There is no room to write a file; the message has the words of `FULL_DISK`."""


def disk_full(error: BaseException) -> DiskFull | None:
    """Returns what to say instead of an error that comes from a full disk or a used up quota; None for others."""
    link: BaseException | None = error
    while link is not None:
        if words := next((words for words in FULL_DISK if words in str(link)), None):
            where = str(error).splitlines()[0]
            if isinstance(link, OSError):
                where = link.filename or "a file or the output"
            return DiskFull(f"{words}: {where}; make room there, then give the same command again")
        link = link.__cause__ or link.__context__
    return None


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Adds the file to errors of writing it, as errors of opening it have it.

    Raises:
        OSError: As the block, with `path` for its file.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def exit_code(main: Callable[[], int | None], failed: int = 1) -> int:
    """Calls `main`, prints the error that ends it, and returns the exit code of the process.

    Args:
        main: What to do; it may return an exit code of its own.
        failed: Exit code for an error that is not the request's.

    Returns:
        0 fine, 1 a run failed or was interrupted, 2 the request was wrong, 141 the reader of the output ended first, as
        `head` does.
    """
    leaving: SystemExit | None = None
    try:
        try:
            code = _exit_code(main, failed)
        except SystemExit as stop:  # argparse has said all there is to say
            leaving, code = stop, 0
        sys.stdout.flush()
    except BrokenPipeError:
        code = _READER_ENDED
    except OSError as error:
        if error.errno != errno.EIO:  # of a terminal that was closed; nobody is there to be told
            print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        code = 1
    else:
        if leaving is not None:
            raise leaving
        return code
    with suppress(OSError, ValueError):  # what is still buffered would be tried, and complained of, once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


_READER_ENDED = 128 + signal.SIGPIPE
"""What a shell shows for a command that was ended by SIGPIPE."""


def _exit_code(main: Callable[[], int | None], failed: int) -> int:
    try:
        return main() or 0
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    except GptOptError as error:
        print(f"error: {error}", file=sys.stderr)
        return failed
    except BrokenPipeError:
        raise
    except OSError as error:  # a file system that is full, not ours, or not there: its own words say it best
        print(f"error: {disk_full(error) or error}", file=sys.stderr)
        return failed
    except KeyboardInterrupt as stop:
        print(f"stopped: {stop}".removesuffix(": "), file=sys.stderr)
        return 1
