"""What becomes of a process whose terminal was closed, whose reader has ended, or whose log file is on a full disk."""

from __future__ import annotations

import errno
import logging
import sys
from contextlib import suppress
from weakref import WeakSet

GONE = (errno.EPIPE, errno.EIO)
"""How writing fails when the reader of a pipe has ended, or the terminal was closed."""

_handle_error = logging.Handler.handleError
_emit = logging.FileHandler.emit
_told: WeakSet[logging.Handler] = WeakSet()


def work_without_readers() -> None:
    """Makes log lines that cannot be written cost no work and no traceback a line.

    Of a terminal or pipe that is gone nothing is said; of others, as a `task.log` on a full disk, one line on standard
    error.
    """
    logging.Handler.handleError = _on_error  # type: ignore[method-assign]
    logging.FileHandler.emit = _emit_to_file  # type: ignore[method-assign,assignment]


def _emit_to_file(self: logging.FileHandler, record: logging.LogRecord) -> None:
    try:
        _emit(self, record)  # opens a file whose opening was delayed, and lets that error pass
    except OSError:
        self.handleError(record)


def _on_error(self: logging.Handler, record: logging.LogRecord) -> None:
    error = sys.exception()
    if not isinstance(error, OSError):
        _handle_error(self, record)
    elif self not in _told:
        _told.add(self)
        if error.errno not in GONE:
            name = getattr(self, "baseFilename", "the log")
            write_line(f"{name} cannot be written, the work goes on without it: {error.strerror}", sys.stderr)


def write_line(text: str, stream: object) -> None:
    """Writes a line to a stream of this process, as far as anybody or any disk takes it."""
    with suppress(OSError):
        print(text, file=stream, flush=True)  # type: ignore[call-overload]
