"""The order of training as a pure function of the seed, and padding to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.tokenize import TokenizedPair
from gpt_opt.training.losses.logprob import IGNORED


class TrainingOrder(Dataset[TokenizedPair]):
    """Every sequence of the whole training, epoch after epoch, as one list of `steps * batch_size` places.

    Each epoch is a new permutation; what does not fill a batch at its end is left out of that epoch. Because place
    i holds the same example whenever it is asked for, resuming at a step is starting at a place.

    Args:
        pairs: The training data.
        batch_size: Sequences of one optimizer step over all devices.
        steps: Optimizer steps of the whole training.
        seed: The run's seed.

    Raises:
        DataError: If there are fewer pairs than one batch needs.
    """

    def __init__(self, pairs: Sequence[TokenizedPair], batch_size: int, steps: int, seed: int) -> None:
        if len(pairs) < batch_size:
            raise DataError(
                [
                    Problem(
                        "training.training_params.batch_size",
                        f"must be at most the number of training pairs, but is {batch_size} with {len(pairs)} pairs",
                    )
                ]
            )
        self._pairs, self._seed = pairs, seed
        self._per_epoch = len(pairs) // batch_size * batch_size
        self._length = steps * batch_size
        self._permutation: tuple[int, list[int]] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> TokenizedPair:
        epoch, offset = divmod(place, self._per_epoch)
        return self._pairs[self._order(epoch)[offset]]

    def _order(self, epoch: int) -> list[int]:
        if self._permutation is None or self._permutation[0] != epoch:
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
            self._permutation = (epoch, torch.randperm(len(self._pairs), generator=generator).tolist())
        return self._permutation[1]


@dataclass(frozen=True)
class Collator:
    """Pads token lists to one batch, on the right.

    There is no attention mask: with padding on the right and causal attention no token of a text sees padding, and
    without a mask the fastest attention kernels apply.

    Attributes:
        pairs: Whether both answers are wanted (chosen first, then rejected: 2B rows), or the chosen ones alone.
    """

    pairs: bool

    def __call__(self, batch: Sequence[TokenizedPair]) -> dict[str, Tensor | int]:
        """Returns a batch.

        Returns:
            `input_ids` (R, T) with R = 2B for pairs and B otherwise; `labels` (R, K), aligned with the logits of the
            last K positions: entry t is the token that position T - K + t predicts, `IGNORED` where that is no answer
            token; `logits_to_keep`, K, so that no logits are computed for the part that is prompt in every row.
        """
        sides = [[(pair.prompt, pair.chosen) for pair in batch]]
        if self.pairs:
            sides.append([(pair.prompt, pair.rejected) for pair in batch])
        rows = [row for side in sides for row in side]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        # Any id does, nothing ever looks at it; a token of the text keeps transformers from asking for a mask.
        ids = torch.full((len(rows), width), rows[0][0][0])
        labels = torch.full((len(rows), width), IGNORED)
        for row, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) - 1 : end - 1] = torch.tensor(answer)
        keep = width - min(len(prompt) for prompt, _ in rows) + 1
        return {"input_ids": ids, "labels": labels[:, -keep:], "logits_to_keep": keep}
