"""A run of several processes: rank 0 does everything that one process would do, the others only train with it.

Rank 0 reads the command line, claims the run and writes its files. The others wait for its word, which carries the
config and where the checkpoints lie, so nothing is decided twice. When rank 0 cannot start, its exit code makes
torchrun end the others.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_opt.errors import GptOptError, RunFailed
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.run.outputs import work_without_readers
from gpt_opt.run.ranks import Rank, this_rank
from gpt_opt.run.signals import SIGNALS, StopRequest, stop_on_signals

if TYPE_CHECKING:
    from gpt_opt.training.distributed import Channel

log = logging.getLogger(__name__)

FIRST_WORD_S = 10.0
"""How long a process that failed leaves the word to rank 0, which mostly fails the same way and says so."""

_OWN_FAILURE_S = FIRST_WORD_S / 2
_WATCH_S = 0.5
_POLL_S = 0.1
_ORDER = "order"


class PeerFailed(RunFailed):
    """Another process of the run raised.

    Attributes:
        record: type, message and traceback of its exception.
    """

    def __init__(self, index: int, record: dict[str, str]) -> None:
        super().__init__(f"process {index}: {record['type']}: {record['message']}")
        self.record = record


class PeerLost(GptOptError):
    """Another process of the run ended without a word, as one does that is killed."""


def error_record(error: BaseException) -> dict[str, str]:
    """Returns what state.json says of an exception; of another process's exception what that process said."""
    if isinstance(error, PeerFailed):
        return error.record
    return {**message_of(error), "traceback": "".join(traceback.format_exception(error))}


def message_of(error: BaseException) -> dict[str, str]:
    """Returns type and message of an exception."""
    return {"type": type(error).__name__, "message": str(error)}


class Peers:
    """The other processes, as rank 0 sees them; with one process there are none and nothing happens."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._channel: Channel | None = None

    def train(self, config: Mapping[str, Any], paths: RunPaths, attempt: int) -> None:
        """Makes them train with this process."""
        self._order({"config": config, "root": str(paths.root), "attempt": attempt})

    def dismiss(self) -> None:
        """Lets them end when nothing was to be trained."""
        if self._channel is None:
            self._order(None)

    def _order(self, order: Mapping[str, Any] | None) -> None:
        if self._rank.count > 1:
            from gpt_opt.training.distributed import Channel

            self._channel = Channel()
            self._channel.leave(_ORDER, json.dumps(order))

    @contextmanager
    def watched(self, on_failure: Callable[[PeerFailed], None]) -> Iterator[None]:
        """Calls `on_failure`, from a thread, when another process fails inside the block and this one goes on.

        This process may then wait for the other one in a place that no signal reaches, until torchrun kills it.
        """
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_WATCH_S):
                if (failed := self._failure()) is not None:
                    if not over.wait(_OWN_FAILURE_S):
                        on_failure(failed)
                    return

        watcher = threading.Thread(target=watch, name="peers", daemon=True)
        if self._channel is not None:
            watcher.start()
        try:
            yield
        finally:
            over.set()
            if watcher.is_alive():
                watcher.join()

    def _failure(self) -> PeerFailed | None:
        """Returns what another process said of its failure; nothing when torchrun has ended, which keeps such words."""
        from gpt_opt.training.distributed import lost_a_process

        assert self._channel is not None
        try:
            for index in range(1, self._rank.count):
                if (text := self._channel.read(f"error/{index}")) is not None:
                    return PeerFailed(index, json.loads(text))
        except RuntimeError as error:
            if not lost_a_process(error):
                raise
        return None

    def raise_if_lost(self, error: Exception) -> None:
        """Raises what lies behind an exception of this process that another one caused.

        Raises:
            PeerFailed: If another process raised.
            PeerLost: If another process has ended.
        """
        from gpt_opt.training.distributed import lost_a_process

        if self._channel is None or not lost_a_process(error):
            return
        if (failed := self._failure()) is not None:
            raise failed from error
        raise PeerLost(
            f"one of the {self._rank.count} processes of the run ended without a word, as if killed; start the run "
            "again to resume it"
        ) from error


@cache
def peers() -> Peers:
    """Returns the other processes of this one's run."""
    return Peers(this_rank())


def run_ranks(lead: Callable[[], None]) -> None:
    """Calls `lead` in rank 0; every other process follows it.

    Raises:
        Exception: As `lead` or, elsewhere, training does.
    """
    rank = this_rank()
    if rank.index > 0:
        _follow(rank)
        return
    lead()
    peers().dismiss()


def _follow(rank: Rank) -> None:
    """Trains what rank 0 says, if it says so; rank 0 alone tells how the run ended.

    Raises:
        RunFailed: If this process failed and rank 0 did not end it.
    """
    work_without_readers()
    logging.basicConfig(level=logging.WARNING, format=f"process {rank.index}: %(message)s")
    error: Exception | None = None
    with stop_on_signals() as stop:  # from here on: a rank that a signal ends now leaves the others waiting for it
        from gpt_opt.training.distributed import Channel, lost_a_process

        channel = Channel()
        order = _order_of(channel, stop)
        if order is None:
            return
        try:
            _train(order["config"], RunPaths(Path(order["root"])), order["attempt"], stop)
        except Exception as caught:
            error = caught
    if error is None:
        for number in SIGNALS:
            # Rank 0 alone says how the run ended: a signal that comes late must not make this process look failed.
            signal.signal(number, signal.SIG_IGN)
        return
    if stop or lost_a_process(error):
        sys.exit(1)  # whichever process ended first has said why, or torchrun will
    record = error_record(error)
    channel.leave(f"error/{rank.index}", json.dumps(record))
    time.sleep(FIRST_WORD_S)
    log.error("%s", record["traceback"])
    raise RunFailed(f"process {rank.index}: {record['type']}: {record['message']}") from error


def _order_of(channel: Channel, stop: StopRequest) -> Any:
    """Returns what rank 0 orders; None where nothing is to be trained, or a signal came before there was an order."""
    deadline = math.inf
    while (text := channel.read(_ORDER)) is None:
        if stop and deadline == math.inf:
            deadline = time.monotonic() + FIRST_WORD_S
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    return json.loads(text)


def _train(config: Mapping[str, Any], paths: RunPaths, attempt: int, stop: StopRequest) -> None:
    from gpt_opt.training.interface import Folder, Hooks
    from gpt_opt.training.loop import train

    hooks = Hooks(progress=lambda step, total: None, stop_requested=lambda: bool(stop), fence=lambda: None)
    train(config, Folder(paths.checkpoints, paths.metrics, paths.samples, attempt), hooks)
