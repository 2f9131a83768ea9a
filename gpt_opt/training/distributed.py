"""The processes of one training: what they exchange besides gradients."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

_CONNECT_TIMEOUT = timedelta(minutes=5)
_LOST = re.compile(r"connection (closed|reset|refused|was likely closed)|broken pipe|socket (closed|error)", re.I)


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: Which one this is, from 0.
        count: How many there are.
        device: Where tensors are that they sum.
        reduce: Sums a tensor, of any shape and type, over all of them.
    """

    rank: int
    count: int
    device: torch.device
    reduce: Callable[[Tensor], Tensor]

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of a tensor of any shape and type over all processes; all of them have to call it."""
        return self.reduce(values) if self.count > 1 else values

    def any(self, flag: bool) -> bool:
        """Returns whether `flag` holds on any process; all of them ask and get the same answer."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def alone(self) -> Processes:
        """Returns this process as the only one, for what each of them does by itself."""
        return replace(self, rank=0, count=1)


class Channel:
    """Texts by name that every process of one torchrun can leave and read: the store that they meet at."""

    def __init__(self) -> None:
        store, _, _ = next(rendezvous("env://", timeout=_CONNECT_TIMEOUT))
        self._store = PrefixStore("gpt_opt", store)

    def leave(self, name: str, text: str) -> None:
        """Leaves a text under a name."""
        self._store.set(name, text)

    def read(self, name: str) -> str | None:
        """Returns the text under a name, or None as long as there is none.

        Raises:
            DistNetworkError: If the store has ended, as when torchrun was killed.
        """
        return self._store.get(name).decode() if self._store.check([name]) else None


def process_count() -> int:
    """Returns how many processes train together, as torchrun says in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def lost_a_process(error: BaseException) -> bool:
    """Returns whether an exception says that another process of the training has ended."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def close() -> None:
    """Ends the connection to the other processes, where there are some, in good order.

    The model must be freed before: what DistributedDataParallel adds to it ends the connection too if it is the last to
    hold it, and does so with Python's lock, for which a thread of gloo may wait that is still busy with the last sum.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def fresh_accelerate() -> Iterator[None]:
    """Forgets accelerate's process-wide state before and after a run, so that runs of one process do not meet."""
    from accelerate.state import AcceleratorState, GradientState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    try:
        yield
    finally:
        forget()
