"""DeepSpeed is imported by the trainings that use it, and by no other."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_NAME = "deepspeed"
_lock, _blocks = threading.Lock(), 0
"""A checkpoint is written by a thread; how many blocks of `without_deepspeed` there are."""


@contextmanager
def without_deepspeed() -> Iterator[None]:
    """Keeps accelerate from importing DeepSpeed to see whether a model is one of DeepSpeed's.

    The import takes seconds, brings MLflow with it and writes to standard output. None in `sys.modules` is Python's
    way to say that a module cannot be imported (the reference's "The module cache").
    """
    global _blocks
    with _lock:
        hides = _blocks > 0 or _NAME not in sys.modules
        if hides:
            sys.modules[_NAME] = None  # type: ignore[assignment]
            _blocks += 1
    try:
        yield
    finally:
        if hides:
            with _lock:
                _blocks -= 1
                if not _blocks:
                    del sys.modules[_NAME]


def import_deepspeed() -> None:
    """Imports DeepSpeed, whose log goes to what standard output is then: standard error, as all that is no result."""
    with redirect_stdout(sys.stderr):
        import deepspeed  # noqa: F401
