"""The one exception root of gpt-opt and its few subclasses.

Only the command line turns these into exit codes: 2 for a wrong request, 1 for a run that failed.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_LONGEST = 255
"""Letters of a name in a message, as many as a file's can have; of a longer one the middle is left out."""

_END = 100
"""Letters that are left of each end of it."""

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONG_WORD = re.compile(rf"[^\s/]{{{_LONGEST + 1},}}")


def plain(text: str) -> str:
    """Returns a text as a terminal can show it, whatever names and values it has.

    Control characters, but line ends, become escapes; so do the bytes of a name that are no UTF-8. Of words that are
    too long for the name of a file the middle is left out; a path stays whole.
    """
    text = _CONTROL.sub(lambda found: _escaped(found[0]), text)
    return _LONG_WORD.sub(lambda found: f"{found[0][:_END]}…{found[0][-_END:]}", text)


def counted(number: int, noun: str) -> str:
    """Returns `1 run` or `3 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Returns seconds as a person says them: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _escaped(character: str) -> str:
    code = ord(character)
    # A byte that is no UTF-8 comes from the command line or a file name as this surrogate.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(character)[1:-1]


def say(text: object) -> None:
    """Prints an error or another message for people on standard error."""
    print(plain(str(text)), file=sys.stderr)


def take_any_text() -> None:
    """Makes standard output and error write what their encoding does not have as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
        where, message = (text.replace("\n", "\\n") for text in (self.where, self.message))
        return f"{where}: {message}" + (f"\n      {self.fix}" if self.fix else "")


_ALIKE = 3
"""So many problems that differ only in a value are all told; of more, the first and their number."""

_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.,e+-]*")


@dataclass
class _Kind:
    first: list[Problem] = field(default_factory=list)
    count: int = 0
    one_source: bool = True

    def add(self, problem: Problem) -> None:
        self.count += 1
        self.one_source = self.one_source and (not self.first or problem.where == self.first[0].where)
        if self.count <= _ALIKE:
            self.first.append(problem)

    def summary(self) -> list[Problem]:
        if self.count <= _ALIKE:
            return self.first
        problem, more = self.first[0], f"and {self.count - 1:,} more"
        if self.one_source:
            return [Problem(problem.where, f"{problem.message} ({more} values like this)", problem.fix)]
        return [Problem(f"{problem.where} {more}", problem.message, problem.fix)]


def distinct_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Returns one problem in place of many that differ only in a value or a line, with their number.

    Args:
        problems: Of these only a few of each kind are held at a time.
    """
    kinds: dict[tuple[str, ...], _Kind] = {}
    for item in problems:
        texts = (item.where.partition("=")[0], item.message, item.fix)
        kinds.setdefault(tuple(_VALUE.sub("", text) for text in texts), _Kind()).add(item)
    return [problem for kind in kinds.values() for problem in kind.summary()]


class RequestError(GptOptError):
    """A request that cannot be carried out as asked; carries all of its problems at once (exit code 2)."""

    def __init__(self, problems: Sequence[Problem], consequence: str = "") -> None:
        self.problems, self._consequence = tuple(problems), consequence
        distinct = distinct_problems(self.problems)
        count = counted(len(distinct), "problem")
        super().__init__("\n".join([f"{count}{consequence}:", *(f"  - {p}" for p in distinct)]))

    def __reduce__(self) -> tuple[type[RequestError], tuple[Sequence[Problem], str]]:
        return type(self), (self.problems, self._consequence)


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


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and did, with a checkpoint; whoever runs a list of runs stops too (exit code 1)."""


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says; "" where it says nothing."""
    return str(error).strip().partition("\n")[0]


FULL_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""The system's words for a disk that is full, and for a user's share of it that is."""


class DiskFull(GptOptError):
    """There is no room to write a file; the message has the words of `FULL_DISK`."""


def disk_full(error: BaseException) -> DiskFull | None:
    """Returns what to say instead of an error that comes from a full disk or a used up quota; None for others."""
    link: BaseException | None = error
    while link is not None:
        if message := next((message for message in FULL_DISK if message in str(link)), None):
            where = next(iter(str(error).splitlines()), type(error).__name__)
            if isinstance(link, OSError):
                where = link.filename2 or link.filename or "a file or the output"  # a copy names its target last
            return DiskFull(f"{message}: {where}; make room there, then give the same command again")
        link = link.__cause__ or link.__context__
    return None


OWN_FOLDER = "go to, or name, a folder that you may write to"
"""What to do where nothing can be written."""


def _not_writable(error: OSError) -> str | None:
    """Returns what to say of an error that comes from a place that may not be written; None for others."""
    where = error.filename2 or error.filename
    if error.errno != errno.EROFS:
        if where is None or error.errno not in (errno.EACCES, errno.EPERM):
            return None
        places = [where, os.path.dirname(os.path.abspath(where))]
        if not os.path.exists(where):
            del places[0]
        if all(os.access(place, os.W_OK) for place in places) or not os.access(places[0], os.R_OK):
            return None  # it was something else, or reading
    return f"{error.strerror}: {where or 'a file or the output'}; {OWN_FOLDER}"


@contextmanager
def named_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Adds the file to errors of writing it, as errors of opening it have it.

    Args:
        path: The file.
        temporary: What is written in its place first, which says nothing to people: errors of it name `path`.

    Raises:
        OSError: As the block, with `path` for its file.
    """
    try:
        yield
    except OSError as error:
        is_named = error.filename is not None and str(error.filename) != str(temporary)
        if is_named or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def exit_code(main: Callable[[], int | None], failed: int = 1) -> int:
    """Calls `main`, prints the error that ends it, and returns the exit code of the process.

    Args:
        main: What to do; it may return an exit code of its own.
        failed: Exit code for an error that is not the request's.

    Returns:
        0 fine, 1 a run failed or stopped with a checkpoint, 2 the request was wrong, 130 the command was interrupted,
        141 the reader of the output ended first, as `head` does.
    """
    take_any_text()
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
            say(f"error: standard output cannot be written: {error.strerror}")
        code = 1
    else:
        if leaving is not None:
            raise leaving
        return code
    with suppress(OSError, ValueError):  # what is still buffered would be tried, and complained of, once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


_READER_ENDED, _INTERRUPTED = 128 + signal.SIGPIPE, 128 + signal.SIGINT
"""What a shell shows for a command that was ended by SIGPIPE, by SIGINT."""


def _exit_code(main: Callable[[], int | None], failed: int) -> int:
    try:
        return main() or 0
    except RequestError as error:
        say(error)
        return 2
    except GptOptError as error:
        say(f"error: {error}")
        return failed
    except BrokenPipeError:
        raise
    except OSError as error:  # a file system that is full, not ours, or not there: its own words say it best
        say(f"error: {disk_full(error) or _not_writable(error) or error}")
        return failed
    except KeyboardInterrupt as stop:
        say("\n" * sys.stderr.isatty() + f"stopped: {stop}".removesuffix(": "))  # a terminal has shown ^C
        return 1 if isinstance(stop, Interrupted) else _INTERRUPTED
