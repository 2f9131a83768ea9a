"""Durable writes, tolerant reads and the lock: what every record on disk is made with.

A file is replaced by temp + fsync + rename; a log of JSON lines is appended to in place. Readers of a log get every
complete line, whatever else its writers left.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from gpt_opt.errors import named_errors

T = TypeVar("T")


def now() -> str:
    """Returns the current time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def seconds_of(stamp: object) -> float | None:
    """Returns a time that `now` wrote in seconds since 1970; None for anything else."""
    try:
        return datetime.fromisoformat(stamp).timestamp() if isinstance(stamp, str) else None
    except ValueError:
        return None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def remove_temporaries(folder: Path) -> None:
    """Deletes what others have half-written; the caller must be the only one who may write in `folder`."""
    for path in folder.glob(".*.tmp"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def _encoded(text: str) -> bytes:
    # A name that is no UTF-8 (its bytes are surrogates) is written as an escape, which is one of JSON too.
    return text.encode("utf-8", errors="backslashreplace")


def sync(path: Path) -> None:
    """Makes a file, or the renames inside a directory, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unfenced() -> None:
    """Lets everybody write."""


@contextmanager
def fenced(fence: Callable[[], None]) -> Iterator[None]:
    """Keeps a process that another one has replaced from doing what the block does.

    Args:
        fence: Raises where this process may not write any more. Asked again when the block fails: whoever took over may
            have cleared away what it needs, and that is then what is to be told.
    """
    fence()
    try:
        yield
    except Exception:  # torch has errors of its own for a folder that is gone
        fence()
        raise


def write_text(path: Path, text: str, fence: Callable[[], None] = unfenced) -> None:
    """Replaces `path` by `text` in one step: a reader sees the old content or the new, never half of it.

    Args:
        path: The file.
        text: What it is to hold.
        fence: Of `fenced`; asked once more when only the last step is left. A process that sleeps between the two has
            nothing to put in place any more, when whoever took over has called `remove_temporaries`.
    """
    write_bytes(path, _encoded(text), fence)


def write_bytes(path: Path, data: bytes, fence: Callable[[], None] = unfenced) -> None:
    """Replaces `path` by `data` as `write_text` does."""
    _put(path, data, fence, os.replace)


def _put(path: Path, data: bytes, fence: Callable[[], None], put: Callable[[Path, Path], None]) -> None:
    temporary = _temporary(path)
    with named_errors(path, temporary):
        try:
            with fenced(fence):
                with temporary.open("wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                fence()
                put(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    sync(path.parent)


def append_records(
    path: Path, records: Iterable[Mapping[str, Any]], durable: bool = True, fence: Callable[[], None] = unfenced
) -> None:
    """Appends a line of JSON for each record in one step: lines of several processes do not mix.

    Args:
        path: The file; made where there is none.
        records: What to append.
        durable: Whether the lines must survive a power failure, and a line before them that a full disk or a dead
            writer left torn: an empty line ends that. False where one process writes, mends and syncs the file itself.
        fence: As of `write_text`. Called with the file open: the lines of a process that sleeps after it go into that
            file, which whoever took over has replaced by another one.

    Raises:
        OSError: If not all of it could be written.
    """
    lines = ("\n" * durable + "".join(json.dumps(record) + "\n" for record in records)).encode()
    with named_errors(path), fenced(fence):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            fence()
            if (written := os.write(descriptor, lines)) < len(lines):  # as much as there was room for
                os.write(descriptor, lines[written:])  # raises what is wrong
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def create_text(path: Path, text: str, fence: Callable[[], None] = unfenced) -> bool:
    """Creates `path` with `text` in one step, unless it exists; arguments as of `write_text`.

    Returns:
        Whether this call created it. Of several callers at once, on any hosts of a shared file system, one gets True.
    """
    try:
        _put(path, _encoded(text), fence, os.link)
    except FileExistsError:
        return False
    return True


def to_json(record: Mapping[str, Any]) -> str:
    """Returns `record` as indented JSON that ends in a newline."""
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads one JSON object.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not UTF-8, not JSON (torn, for example), or not an object.
    """
    with open(path, "rb") as stream:  # for thousands of files half as long as `read_text`
        return parse_line(stream.read())


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Returns what `read_json_object` does; {} where there is none that can be read."""
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return {}


def number(value: object) -> float | None:
    """Returns a JSON number as a float, NaN and infinities included; None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def changed_ns(file: Path) -> int:
    """Returns when a file was changed last, in nanoseconds since 1970; 0 where it is not there."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@dataclass(frozen=True)
class JsonLines(Generic[T]):
    """What a file of one JSON object a line holds.

    Attributes:
        records: What the lines say, in order.
        foreign: Number, from 1, and fault of every complete line that is no record of this file.
        torn: Whether the last line is cut off: its writer was killed in it, or is just writing it.
    """

    records: list[T]
    foreign: list[tuple[int, str]]
    torn: bool

    @property
    def left_out(self) -> int:
        """Number of lines that are in no record."""
        return len(self.foreign) + self.torn


def parse_line(line: bytes) -> dict[str, Any]:
    """Returns the JSON object in a line.

    Raises:
        ValueError: If it is not UTF-8, not JSON or not an object.
    """
    try:
        record = json.loads(line.decode("utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is needed, not a {type(record).__name__}")
    return record


def read_lines(path: Path, convert: Callable[[dict[str, Any]], T]) -> JsonLines[T]:
    """Reads a file of one JSON object a line; an absent file has no lines.

    Args:
        path: The file.
        convert: Makes a record of an object. ValueError, LookupError and TypeError say that it is not one of this file.

    Raises:
        OSError: If the file is there but cannot be read.
    """
    records: list[T] = []
    foreign: list[tuple[int, str]] = []
    try:
        with open(path, "rb") as stream:
            *lines, tail = stream.read().split(b"\n")
    except FileNotFoundError:
        return JsonLines(records, foreign, torn=False)
    torn = bool(tail.strip()) and not _is_whole(tail)
    for number, line in enumerate(lines if torn else [*lines, tail], start=1):
        if not line.strip():
            continue
        try:
            records.append(convert(parse_line(line)))
        except (ValueError, LookupError, TypeError) as error:
            foreign.append((number, str(error) if isinstance(error, ValueError) else repr(error)))
    return JsonLines(records, foreign, torn)


def _is_whole(line: bytes) -> bool:
    """Returns whether a line without its end is an object all the same: only the newline is missing then."""
    try:
        parse_line(line)
    except ValueError:
        return False
    return True


def lock(file: Path, wait: bool = True) -> IO[str]:
    """Takes a lock that one process at a time has, and returns the open file that carries it.

    Closing that file gives the lock back, as does the end of the process and of every process that inherited it:
    `with lock(folder / ".lock"): ...`.

    Args:
        file: Made where there is none; what it holds is left as it is.
        wait: Whether to wait for the lock.

    Raises:
        BlockingIOError: If another process has it and `wait` is False.
        OSError: If the file system has no locks.
    """
    stream = file.open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        stream.close()
        raise
    return stream
