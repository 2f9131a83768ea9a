"""Batches without padding, in which the sequences of an item share their common beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """The sequences of a batch as one sequence of N tokens: a tree of tokens for each item, one after the other.

    A tree has the tokens with which the rows of its item begin alike, the prompt at least where it is the same, and
    then the branches: what is left of each row. A token looks at those before it in its own branch and at the shared
    ones; so every row is computed exactly as by itself, and the shared tokens only once. The last token of a row is
    left out, as it predicts nothing.

    Attributes:
        ids: (1, N) int64.
        positions: (1, N) int64, of each token in its row.
        branches: (N,) int64, 0 for shared tokens, from 1 for those of the first, second, ... row of the item.
        sizes: Tokens of each tree.
        predictors: (M,) int64, index in N of the token that predicts each target.
        targets: (M,) int64, the tokens of the completions that count, row by row: first rows of all items, then second
            ones.
        cells: (M,) int64, index of each target in a table of all rows, flattened.
        shape: (R, L) of that table: rows, and most targets of a row.
        masks: Of attention, by what they depend on; see `gpt_opt.training.models.packed`.
    """

    ids: Tensor
    positions: Tensor
    branches: Tensor
    sizes: tuple[int, ...]
    predictors: Tensor
    targets: Tensor
    cells: Tensor
    shape: tuple[int, int]
    masks: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Packed:
        """Returns it with its tensors on a device."""
        if self.ids.device == torch.device(device):
            return self
        names = "ids", "positions", "branches", "predictors", "targets", "cells"
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved, masks={})


def pack(items: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]]) -> Packed:
    """Packs token lists.

    Args:
        items: The rows of each item, for every item the same number: prompt and completion, in which `~id` stands for
            a token `id` that is only context.
    """
    trees, targets, predictors, start = [], [], [], 0
    for rows in items:
        completions = [np.array(completion, np.int64) for _, completion in rows]
        inputs = [
            np.concatenate([np.array(prompt, np.int64), np.where(own < 0, ~own, own)])[:-1]
            for (prompt, _), own in zip(rows, completions, strict=True)
        ]
        shared = _common_length(inputs)
        trees.append(_tree(inputs, shared))
        end = start + shared
        for (prompt, _), own, tokens in zip(rows, completions, inputs, strict=True):
            learned = np.flatnonzero(own >= 0)
            before = learned + len(prompt) - 1  # in its row
            predictors.append(np.where(before < shared, start + before, end + before - shared))
            targets.append(own[learned])
            end += len(tokens) - shared
        start = end
    sides = len(items[0])
    order = [item * sides + side for side in range(sides) for item in range(len(items))]
    targets = [targets[index] for index in order]
    width = max(map(len, targets))
    cells = [row * width + np.arange(len(own)) for row, own in enumerate(targets)]
    ids, positions, branches = (np.concatenate(parts) for parts in zip(*trees, strict=True))
    return Packed(
        torch.from_numpy(ids)[None],
        torch.from_numpy(positions)[None],
        torch.from_numpy(branches),
        tuple(len(tree[0]) for tree in trees),
        torch.from_numpy(np.concatenate([predictors[index] for index in order])),
        torch.from_numpy(np.concatenate(targets)),
        torch.from_numpy(np.concatenate(cells)),
        (len(order), width),
    )


def _common_length(rows: Sequence[Ids]) -> int:
    """Returns how many tokens all rows have in common from their start."""
    shortest = min(map(len, rows))
    differs = np.zeros(shortest, bool)
    for row in rows[1:]:
        differs |= row[:shortest] != rows[0][:shortest]
    return int(differs.argmax()) if differs.any() else shortest


def _tree(rows: Sequence[Ids], shared: int) -> tuple[Ids, Ids, Ids]:
    """Returns tokens, positions and branches of a tree."""
    ids = [rows[0][:shared], *(row[shared:] for row in rows)]
    positions = [np.arange(shared), *(np.arange(shared, len(row)) for row in rows)]
    branches = [np.full(len(part), branch) for branch, part in enumerate(ids)]
    return cast("tuple[Ids, Ids, Ids]", tuple(np.concatenate(parts) for parts in (ids, positions, branches)))
