"""What the reference says of the validation data, kept from the first evaluation on: later ones do without it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from gpt_opt.training.data.order import Batch
from gpt_opt.training.losses.predictions import Head, Predictions

LEAST_BYTES = 2**28
"""So much may be kept of any model; of a larger one, as much as its weights have: it is kept in place of them."""


class KeptPredictions:
    """Predictions of a model that does not change, by the batches that they are of; on the CPU.

    Of a head, its states (M, d) are kept for each batch and its weight (V, d) once; of all, `most_bytes` at most.
    """

    def __init__(self, most_bytes: int) -> None:
        self._room = most_bytes
        self._by_batch: dict[bytes, Predictions] = {}
        self._weight: Tensor | None = None
        self.is_whole = False

    def get(self, batch: Batch, device: torch.device) -> Predictions | None:
        """Returns the predictions of a batch, on a device, as they were given; None if there are none."""
        kept = self._by_batch.get(_key(batch))
        if kept is None:
            return None
        logits = kept.logits
        if isinstance(logits, Head):
            assert self._weight is not None
            self._weight = self._weight.to(device)
            logits = Head(logits.states.to(device), self._weight)
        else:
            logits = logits.to(device)
        cells = None if kept.cells is None else kept.cells.to(device)
        return replace(kept, logits=logits, labels=kept.labels.to(device), cells=cells)

    def add(self, batch: Batch, predictions: Predictions, changes: bool) -> None:
        """Keeps the predictions of a batch, without gradient, unless there is no room: then it is never whole.

        Args:
            batch: The batch.
            predictions: Of the model.
            changes: Whether the model is about to, so that its head has to be copied.
        """
        if self._room < 0:
            return
        logits = predictions.logits
        if isinstance(logits, Head):
            if self._weight is None:
                self._weight = logits.weight.clone() if changes else logits.weight
                self._room -= self._weight.nbytes
            states = logits.states.cpu()
            kept: Tensor | Head = Head(states, self._weight)
        else:
            kept = states = logits.cpu()
        self._room -= states.nbytes
        if self._room < 0:
            self._by_batch.clear()
            self._weight = None
            return
        cells = None if predictions.cells is None else predictions.cells.cpu()
        self._by_batch[_key(batch)] = Predictions(kept, predictions.labels.cpu(), predictions.shape, cells)

    def leave(self) -> None:
        """Takes what is shared off the device, and is whole from now on if there was room for all."""
        self.is_whole = self._room >= 0 and bool(self._by_batch)
        self._weight = None if self._weight is None else self._weight.cpu()


def _key(batch: Batch) -> bytes:
    """Returns 128 bits of a hash of the tokens of a batch and of what is to be predicted."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("input_ids", "labels"):
        digest.update(f"{tuple(batch[name].shape)}".encode() + batch[name].cpu().numpy().tobytes())
    return digest.digest()
