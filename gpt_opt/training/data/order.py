"""The order of training as a pure function of the seed, and padding to tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.packing import pack
from gpt_opt.training.data.records import Tokenized
from gpt_opt.training.losses.logprob import IGNORED

Batch = dict[str, Any]
"""What a collator returns, on the device: `input_ids` (R, T) int64, `labels` (R, K) int64, `logits_to_keep` = K.

R is the number of sequences, of several for each item first all first ones, then all second ones. See `pad`. Where they
were computed before, `reference_logps` (R,) float has the log-probabilities of the completions under the reference.
Where it may be computed packed, `packed` has the same tokens as `gpt_opt.training.data.packing.Packed`.
"""

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of a completion, in which `~id` stands for a token `id` that is only context."""


_GROUPED_BATCHES = 50
"""Batches whose items are sorted by length together: transformers' number, by which an order stays mostly random."""


class TrainingOrder(Dataset[Any]):
    """Every item of the whole training, epoch after epoch, as one list of `steps * batch_size` items.

    Each epoch is a new permutation; what does not fill a batch at its end is left out of that epoch. Because index i
    holds the same item whenever it is asked for, resuming at a step is starting at an index.

    Args:
        items: The training data.
        batch_size: Items of one optimizer step over all devices.
        steps: Optimizer steps of the whole training.
        seed: The run's seed.
        item_name: What the items are called, in the plural.
        arrange: Makes those of the items of a step that the collator takes, as many as they are.

    Raises:
        DataError: If there are fewer items than one batch needs.
    """

    def __init__(
        self,
        items: Sequence[Any],
        batch_size: int,
        steps: int,
        seed: int,
        item_name: str,
        arrange: Callable[[Sequence[Any]], Sequence[Any]] = list,
    ) -> None:
        if len(items) < batch_size:
            problem = f"must be at most the training data, but is {batch_size} with {len(items)} {item_name}"
            raise DataError([Problem("training.training_params.batch_size", problem)])
        self._items, self._batch_size, self._seed, self.item_name = items, batch_size, seed, item_name
        self._arrange = arrange
        self._per_epoch = len(items) // batch_size * batch_size
        self._length = steps * batch_size
        self._permutation: tuple[int, list[int]] | None = None
        self._lengths: Sequence[int] | None = None
        self._step: tuple[int, Sequence[Any]] | None = None

    def group_by_length(self, lengths: Sequence[int]) -> None:
        """Has each batch hold items of similar length: of every 50 batches, sorted by length and cut anew.

        Args:
            lengths: Tokens of each item of the training data.
        """
        self._lengths, self._permutation, self._step = lengths, None, None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        step, offset = divmod(index, self._batch_size)
        if self._step is None or self._step[0] != step:
            batch = [self._items[self.position(other)] for other in self.of_step(step)]
            self._step = (step, self._arrange(batch))
        return self._step[1][offset]

    def of_step(self, step: int) -> range:
        """Returns the indices of the items of the optimizer step after `step` steps."""
        return range(step * self._batch_size, (step + 1) * self._batch_size)

    def position(self, index: int) -> int:
        """Returns where in the training data the item of an index is."""
        epoch, offset = divmod(index, self._per_epoch)
        return self._order(epoch)[offset]

    def settings(self) -> dict[str, int]:
        """Returns what decides which items each step takes, by config key or name."""
        grouped = {} if self._lengths is None else {"training.training_params.group_by_length": True}
        return {
            "training.training_params.batch_size": self._batch_size,
            "seed": self._seed,
            f"training {self.item_name}": len(self._items),
            **grouped,
        }

    def _order(self, epoch: int) -> list[int]:
        if self._permutation is None or self._permutation[0] != epoch:
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
            order = torch.randperm(len(self._items), generator=generator).tolist()
            self._permutation = (epoch, order if self._lengths is None else self._grouped(order, generator))
        return self._permutation[1]

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """Returns an order of the same items in batches of similar length, the batches in random order."""
        assert self._lengths is not None
        size, taken = self._batch_size, order[: self._per_epoch]
        batches: list[list[int]] = []
        for start in range(0, len(taken), _GROUPED_BATCHES * size):
            part = sorted(taken[start : start + _GROUPED_BATCHES * size], key=self._lengths.__getitem__)
            batches += [part[first : first + size] for first in range(0, len(part), size)]
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [item for index in shuffled for item in batches[index]]


class SequentialOrder(TrainingOrder):
    """The items as they lie, epoch after epoch, whatever the seed."""

    def position(self, index: int) -> int:
        """Returns where in the training data the item of an index is."""
        return index % self._per_epoch

    def settings(self) -> dict[str, int]:
        """Returns what decides which items each step takes."""
        return {key: value for key, value in super().settings().items() if key != "seed"}


@runtime_checkable
class Collate(Protocol):
    """Makes a batch of tensors out of items of the data."""

    def rows(self, item: Any) -> list[Row]:
        """Returns what an item puts into a batch, for every item the same number of sequences."""

    def __call__(self, batch: Sequence[Any]) -> Batch:
        """Returns what `pad` returns, and what else the loss needs."""


@dataclass(frozen=True)
class Collator:
    """Batches of pairs, the chosen completions first, or of single completions."""

    def rows(self, item: Tokenized) -> list[Row]:
        """Returns the chosen and the rejected completion of a pair, or the completion."""
        prompt, *completions = item.ids
        return [(prompt, completion) for completion in completions]

    def __call__(self, batch: Sequence[Tokenized]) -> Batch:
        """Returns what `pad` returns, of 2B rows for pairs and B for single completions, and `packed`."""
        items = [self.rows(item) for item in batch]
        return {**pad(items), "packed": pack(items)}


def pad(items: Sequence[Sequence[Row]]) -> dict[str, Tensor | int]:
    """Pads token lists to one batch, on the right: the first row of every item, then the second of every item.

    There is no attention mask: with padding on the right and causal attention no token of a text sees padding, and
    without a mask the fastest attention kernels apply.

    Args:
        items: The rows of each item, for every item the same number.

    Returns:
        `input_ids`, (R, T) int64. `labels`, (R, K) int64, aligned with the logits of the last K positions: entry t is
        the token that position T - K + t predicts, `IGNORED` where that is no token of a completion. `logits_to_keep`,
        the int K, so that no logits are computed for the part that is prompt in every row.
    """
    rows = [row for side in zip(*items, strict=True) for row in side]
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    # Any id does, nothing ever looks at it; a token of the text keeps transformers from asking for a mask.
    ids = torch.full((len(rows), width), rows[0][0][0])
    labels = torch.full((len(rows), width), IGNORED)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        learned = torch.tensor(completion, dtype=torch.long)
        ids[row, : len(prompt)] = torch.tensor(prompt)
        ids[row, len(prompt) : end] = torch.where(learned < 0, ~learned, learned)
        labels[row, len(prompt) - 1 : end - 1] = learned.masked_fill(learned < 0, IGNORED)
    keep = width - min(len(prompt) for prompt, _ in rows) + 1
    return {"input_ids": ids, "labels": labels[:, -keep:], "logits_to_keep": keep}
