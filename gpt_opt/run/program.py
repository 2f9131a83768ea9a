"""How a process that has imported what a program needs becomes that program, and how it ends."""

from __future__ import annotations

import atexit
import builtins
import ctypes
import gc
import io
import os
import pkgutil
import runpy
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import NoReturn

_WRITE_S = 60.0
"""How long the end waits for what is buffered; a thread that is stuck in a write holds its file."""


class Finished(SystemExit):
    """The exit of a program that leaves nothing for Python to take apart; to all but a warm process any other exit."""

    code: int


def be(command: Sequence[str]) -> None:
    """Is a command, to its end: a Python script with its arguments, or `-m`, a module and its arguments."""
    # It stays what it is to the threads and processes that outlive its last line.
    main = sys.modules["__main__"] = ModuleType("__main__")
    try:
        if command[0] == "-m":
            sys.argv = list(command[1:])
            runpy._run_module_as_main(command[1])  # type: ignore[attr-defined]
        else:
            sys.argv = list(command)
            file = os.path.abspath(command[0])
            if pkgutil.get_importer(file) is not None:  # a folder or an archive that has a __main__.py
                runpy.run_path(file, run_name="__main__")
                return
            main.__loader__ = loader = SourceFileLoader("__main__", file)
            main.__file__, main.__cached__, main.__builtins__ = file, None, builtins  # type: ignore[attr-defined]
            exec(loader.source_to_code(loader.get_data(file), file), vars(main))
    except Finished as end:
        end_at_once(end.code)


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
