"""How the process of a run ends."""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import os
import threading
import traceback
from contextlib import suppress
from typing import NoReturn

_WRITE_S = 60.0
"""How long the end waits for what is buffered; a thread that is stuck in a write holds its file."""


class Finished(SystemExit):
    """The exit of a program that leaves nothing for Python to take apart; to all but a warm process any other exit."""

    code: int


def end_at_once(code: int) -> NoReturn:
    """Ends this process as Python does, but for taking every module apart.

    A fork of a warm process would copy all memory of torch for that, which takes as long as some runs do.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException:  # a signal, most of all; the work is done, and Python would keep its exit code too
        traceback.print_exc()
    atexit._run_exitfuncs()
    writer = threading.Thread(target=_write_out, daemon=True)
    writer.start()
    writer.join(_WRITE_S)
    os._exit(code & 0xFF)


def _write_out() -> None:
    """Writes what files that are open have buffered."""
    for item in gc.get_objects():
        if issubclass(type(item), io.TextIOWrapper | io.BufferedWriter | io.BufferedRandom):
            with suppress(Exception):  # it is closed, or Python could not write it either
                item.flush()
    ctypes.CDLL(None).fflush(None)
