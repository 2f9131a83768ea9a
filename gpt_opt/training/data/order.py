"""The order of training as a pure function of the seed, and padding to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.tokenize import Limits, Tokenized, TokenizedExample, ids_of
from gpt_opt.training.data.unpaired import MismatchedExample, mismatched
from gpt_opt.training.losses.logprob import IGNORED

Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of an answer, in which `~id` stands for a token `id` that is only context."""


class TrainingOrder(Dataset[Any]):
    """Every sequence of the whole training, epoch after epoch, as one list of `steps * batch_size` places.

    Each epoch is a new permutation; what does not fill a batch at its end is left out of that epoch. Because place
    i holds the same example whenever it is asked for, resuming at a step is starting at a place.

    Args:
        pairs: The training data; pairs, or whatever else the collator knows.
        batch_size: Sequences of one optimizer step over all devices.
        steps: Optimizer steps of the whole training.
        seed: The run's seed.

    Raises:
        DataError: If there are fewer pairs than one batch needs.
    """

    def __init__(self, pairs: Sequence[Any], batch_size: int, steps: int, seed: int) -> None:
        if len(pairs) < batch_size:
            raise DataError(
                [
                    Problem(
                        "training.training_params.batch_size",
                        f"must be at most the training data, but is {batch_size} with {len(pairs)} {_noun(pairs)}",
                    )
                ]
            )
        self._pairs, self._batch_size, self._seed = pairs, batch_size, seed
        self._per_epoch = len(pairs) // batch_size * batch_size
        self._length = steps * batch_size
        self._permutation: tuple[int, list[int]] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> Any:
        return self._pairs[self.position(place)]

    def position(self, place: int) -> int:
        """Returns where in the training data the item of a place is."""
        epoch, offset = divmod(place, self._per_epoch)
        return self._order(epoch)[offset]

    @property
    def noun(self) -> str:
        """What the data consists of."""
        return _noun(self._pairs)

    def settings(self) -> dict[str, int]:
        """Returns what decides which items each step takes, by config key or name."""
        return {
            "training.training_params.batch_size": self._batch_size,
            "seed": self._seed,
            f"training {self.noun}": len(self._pairs),
        }

    def _order(self, epoch: int) -> list[int]:
        if self._permutation is None or self._permutation[0] != epoch:
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
            self._permutation = (epoch, torch.randperm(len(self._pairs), generator=generator).tolist())
        return self._permutation[1]


class ExampleOrder(TrainingOrder):
    """The same for judged answers, each with the answer of another one of its batch, as `mismatched` chooses it.

    The batch is that of the whole optimizer step, so that neither micro-batches nor processes change who is mismatched
    with whom.

    Args:
        examples: The training data.
        batch_size: Examples of one optimizer step over all devices.
        steps: Optimizer steps of the whole training.
        seed: The run's seed.
        limits: How long a prompt and the answer of another may be.

    Raises:
        DataError: If there are fewer examples than one batch needs.
    """

    def __init__(
        self, examples: Sequence[TokenizedExample], batch_size: int, steps: int, seed: int, limits: Limits
    ) -> None:
        super().__init__(examples, batch_size, steps, seed)
        self._limits = limits
        self._batch: tuple[int, list[MismatchedExample]] | None = None

    def __getitem__(self, place: int) -> MismatchedExample:
        first = place - place % self._batch_size
        if self._batch is None or self._batch[0] != first:
            batch = [self._pairs[self.position(index)] for index in range(first, first + self._batch_size)]
            self._batch = (first, mismatched(batch, self._limits))
        return self._batch[1][place - first]


def _noun(items: Sequence[Any]) -> str:
    return "examples" if items and isinstance(items[0], TokenizedExample) else "pairs"


@runtime_checkable
class Collate(Protocol):
    """Makes a batch of tensors out of items of the data."""

    def rows(self, item: Any) -> list[Row]:
        """Returns what an item puts into a batch, for every item the same number of sequences."""

    def __call__(self, batch: Sequence[Any]) -> dict[str, Tensor | int]:
        """Returns what `pad` returns, and what else the loss needs."""


@dataclass(frozen=True)
class Collator:
    """Batches of pairs, the chosen answers first, or of single answers."""

    def rows(self, item: Tokenized) -> list[Row]:
        """Returns the chosen and the rejected answer of a pair, or the answer."""
        prompt, *answers = ids_of(item)
        return [(prompt, answer) for answer in answers]

    def __call__(self, batch: Sequence[Tokenized]) -> dict[str, Tensor | int]:
        """Returns what `pad` returns, of 2B rows for pairs and B for single answers."""
        return pad([self.rows(item) for item in batch])


@dataclass(frozen=True)
class ExampleCollator:
    """Batches of judged answers: B rows with the answers, then B with those of others under the same prompts."""

    def rows(self, item: MismatchedExample) -> list[Row]:
        """Returns the prompt with its own answer and with that of another."""
        return [(item.example.prompt, item.example.completion), (item.prompt, item.other)]

    def __call__(self, batch: Sequence[MismatchedExample]) -> dict[str, Tensor | int]:
        """Returns what `pad` returns, of 2B rows, and `desirable` (B,)."""
        desirable = torch.tensor([item.example.desirable for item in batch])
        return {**pad([self.rows(item) for item in batch]), "desirable": desirable}


def pad(items: Sequence[Sequence[Row]]) -> dict[str, Tensor | int]:
    """Pads token lists to one batch, on the right: the first row of every item, then the second of every item.

    There is no attention mask: with padding on the right and causal attention no token of a text sees padding, and
    without a mask the fastest attention kernels apply.

    Args:
        items: The rows of each item, for every item the same number.

    Returns:
        `input_ids` (R, T); `labels` (R, K), aligned with the logits of the last K positions: entry t is the token that
        position T - K + t predicts, `IGNORED` where that is no answer token; `logits_to_keep`, K, so that no logits are
        computed for the part that is prompt in every row.
    """
    rows = [row for side in zip(*items, strict=True) for row in side]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    # Any id does, nothing ever looks at it; a token of the text keeps transformers from asking for a mask.
    ids = torch.full((len(rows), width), rows[0][0][0])
    labels = torch.full((len(rows), width), IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        learned = torch.tensor(answer, dtype=torch.long)
        ids[row, : len(prompt)] = torch.tensor(prompt)
        ids[row, len(prompt) : end] = torch.where(learned < 0, ~learned, learned)
        labels[row, len(prompt) - 1 : end - 1] = learned.masked_fill(learned < 0, IGNORED)
    keep = width - min(len(prompt) for prompt, _ in rows) + 1
    return {"input_ids": ids, "labels": labels[:, -keep:], "logits_to_keep": keep}
