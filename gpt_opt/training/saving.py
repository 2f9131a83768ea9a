"""Writing checkpoints while the next steps train."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from threading import Thread
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from gpt_opt.training.memory import host_room

log = logging.getLogger(__name__)


class Saving:
    """A thread that writes a checkpoint, one at a time; what goes wrong there is raised by the next call.

    As a context it ends with the training: its last checkpoint is on disk then, unless an interrupt ends all at once.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None
        self._is_given_up = False

    def start(self, write: Callable[[], None]) -> None:
        """Writes what a checkpoint holds, after the one before."""

        def work() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        self.wait()
        self._thread = Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Does not wait for a checkpoint that is being written."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk."""
        if self._thread is not None:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error

    def require(self) -> None:
        """Ends the thread where nobody waits for its checkpoint any more.

        Raises:
            InterruptedError: If so.
        """
        if self._is_given_up:
            raise InterruptedError("the training was interrupted")

    def __enter__(self) -> None:
        """Does nothing: the thread starts with the first checkpoint."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Waits likewise; beside an error of the block one of the thread is only told."""
        if isinstance(error, KeyboardInterrupt):
            self._is_given_up = True
            return
        try:
            self.wait()
        except Exception as own:
            if error is None:
                raise
            log.warning("the last checkpoint was not saved: %s", own)


def fits_host(state: dict[str, Any]) -> bool:
    """Returns whether the memory of the host has room for a copy of a state."""
    needed = sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor) and not leaf.is_sparse)
    return needed * 1.1 < host_room()


def on_host(state: dict[str, Any]) -> dict[str, Any]:
    """Copies what a step would change under the hands of a writer: tensors to the memory of the host.

    Args:
        state: Dictionaries and lists of tensors on any device and of plain values; tied weights stay tied.
    """
    copies: dict[object, Tensor] = {}

    def taken(tensor: Tensor) -> Tensor:
        place: object = id(tensor)
        if type(tensor) is Tensor and tensor.layout is torch.strided and tensor.data_ptr():
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in copies:
            copies[place] = tensor.detach().to("cpu", copy=True)
        return copies[place]

    copied: dict[str, Any] = tree_map_only(torch.Tensor, taken, state)
    return copied


def with_own_configs(model: nn.Module) -> nn.Module:
    """Returns a model of the same modules with copies of the configs that transformers saves beside its weights."""
    copied = copy.copy(model)
    for name in ("config", "generation_config"):
        if hasattr(model, name):
            setattr(copied, name, copy.deepcopy(getattr(model, name)))
    return copied
