"""A polite end: SIGTERM or Ctrl-C asks the run to checkpoint and stop, Ctrl-C once more ends it at once.

A repeated SIGTERM is no second request: schedulers send it to every process of a job, and parents pass it on. SIGUSR1
and SIGUSR2, by which Slurm's `--signal` and submitit warn of the time limit, ask the same, and are passed on to
submitit when the run has checkpointed. So does SIGHUP, which a closed terminal sends, unless it is ignored (nohup).
SIGQUIT and SIGTSTP keep their meaning: end at once, and pause.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from gpt_opt.run.ranks import under_torchrun

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask a run to checkpoint and stop."""

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Those of them by which a scheduler warns of the time limit."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Makes the kernel send a signal to this process when its parent ends: a run does not outlive its slot."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def adopt_orphans() -> None:
    """Makes the kernel give this process the descendants whose parents have ended, so that it knows of all of them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Returns the `SIGNALS` that this process listens to: SIGHUP only where it is not ignored already.

    torchrun has a handler of its own even under nohup: it passes SIGHUP on and kills whoever goes on for 30 s more. So
    its workers listen, unless TORCHELASTIC_SIGNALS_TO_HANDLE took the signal from torchrun too.
    """
    passed_on = under_torchrun() and "SIGHUP" in os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGHUP")
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not passed_on
    return tuple(number for number in SIGNALS if not (ignored and number is signal.SIGHUP))


class StopRequest:
    """Whether, and by which signal, this process was asked to stop.

    Args:
        answer: What is done then, for the log.
    """

    def __init__(self, answer: str = "writing a checkpoint and stopping") -> None:
        self._answer = answer
        self.signal: signal.Signals | None = None
        self._at_once = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            log.info("%s: %s; Ctrl-C once more ends at once", self.signal.name, self._answer)
        elif number == signal.SIGINT:
            self._at_once = True
            while frame is not None and frame.f_code.co_name != "__del__":  # Python ignores what is raised in one
                frame = frame.f_back
            if frame is None:
                self.raise_at_once()

    def raise_at_once(self) -> None:
        """Raises the KeyboardInterrupt of a second Ctrl-C, if there was one: a finalizer may have kept it back."""
        if self._at_once:
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
def ctrl_c_deferred(of_children: bool = False) -> Iterator[None]:
    """Lets a Ctrl-C inside the block take effect at its end; outside the main thread there is none to defer.

    Args:
        of_children: Whether it is kept from processes that the block starts, too.
    """
    received: list[int] = []
    numbers = [signal.SIGINT] if threading.current_thread() is threading.main_thread() else []
    try:
        with handled(numbers, lambda number, _: received.append(number)):
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT] if of_children else [])
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        if received:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def stop_on_signals(*answer: str) -> Iterator[StopRequest]:
    """Listens for `stop_signals` inside the block and puts the former handlers back after it.

    If it was one of `WARNINGS` and the process had a handler for it, that is called after the block; submitit's puts
    the job back into the queue and raises what ends the process.

    Outside the main thread, where Python allows no handlers, the block runs without listening.

    Args:
        answer: As of `StopRequest`.
    """
    request = StopRequest(*answer)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former: dict[signal.Signals, Any] = {}
    try:
        with handled(stop_signals(), request._receive) as former:
            yield request
    finally:
        if request.signal in WARNINGS and callable(former[request.signal]):
            signal.raise_signal(request.signal)
