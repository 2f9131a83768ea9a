"""Writing checkpoints while the next steps train."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

log = logging.getLogger(__name__)


class Saving:
    """One thread that writes one checkpoint at a time; what goes wrong there is raised by the next call."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Writes what a checkpoint holds, after the one before."""
        self.wait()
        self._last = self._thread.submit(write)

    def check(self) -> None:
        """Does not wait for a checkpoint that is being written."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> None:
        """Does nothing: the thread starts with the first checkpoint."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Waits likewise, and ends the thread; beside an error of the block one of its own is only told."""
        self._thread.shutdown()
        try:
            self.wait()
        except Exception as own:
            if error is None:
                raise
            log.warning("the last checkpoint was not saved: %s", own)


def on_host(state: dict[str, Any]) -> dict[str, Any]:
    """Copies what a step would change under the hands of a writer: tensors to the memory of the host.

    Args:
        state: Dictionaries and lists of tensors on any device and of plain values; tied weights stay tied.
    """
    copies: dict[tuple[object, ...], Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in copies:
            copies[place] = tensor.detach().to("cpu", copy=True)
        return copies[place]

    copied: dict[str, Any] = tree_map_only(torch.Tensor, copy, state)
    return copied
