"""A polite end: SIGTERM or Ctrl-C asks the run to checkpoint and stop, Ctrl-C once more ends it at once.

A repeated SIGTERM is no second request: schedulers send it to every process of a job, and parents pass it on. SIGUSR2,
by which submitit hears of the time limit, asks the same, and is passed on to submitit when the run has checkpointed.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """Whether, and by which signal, this process was asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            log.info("%s: writing a checkpoint and stopping; Ctrl-C once more ends at once", self.signal.name)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt("second signal, SIGINT")


@contextmanager
def handled(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[dict[signal.Signals, Any]]:
    """Calls `handler` for signals inside the block and puts the former handlers, which it yields, back after it."""
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield former
    finally:
        for number, before in former.items():
            signal.signal(number, before)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Listens for `SIGNALS` inside the block and puts the former handlers back after it.

    If it was SIGUSR2 and the process had a handler for it, that is called after the block; submitit's puts the job back
    into the queue and raises what ends the process.

    Outside the main thread, where Python allows no handlers, the block runs without listening.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former: dict[signal.Signals, Any] = {}
    try:
        with handled(SIGNALS, request._receive) as former:
            yield request
    finally:
        if request.signal is signal.SIGUSR2 and callable(former[signal.SIGUSR2]):
            signal.raise_signal(signal.SIGUSR2)
