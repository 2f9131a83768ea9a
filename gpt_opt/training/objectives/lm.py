"""Pretraining: rows of tokens that follow each other, and the likelihood of each next token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gpt_opt.config.checks.batches import batch_size, sequence_length
from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.mixture import build_dataset
from gpt_opt.training.data.order import Batch, Collate, Row, SequentialOrder, TrainingOrder
from gpt_opt.training.data.prepare import Items
from gpt_opt.training.data.shards import Shard, ShardRows
from gpt_opt.training.data.tokens import TokenData
from gpt_opt.training.instantiate import require_kind
from gpt_opt.training.losses import LM
from gpt_opt.training.metrics import MetricAccumulator
from gpt_opt.training.objectives.base import Objective, Sizes

TokenRow = NDArray[np.int64]
"""Tokens of a sequence and the one after it, (T + 1,)."""


class LMObjective(Objective):
    """Mean cross-entropy over all tokens of a step. An item is a row of `context_length` tokens and the one after it.

    Labels are shifted here, in the collator, and nowhere else: models are never given labels.
    """

    item_name = "sequences"
    keeps_dropout = True
    loss: LM

    def items(self, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> Items:
        """Returns the rows of `data.dataset`, whose `_target_` gives `TokenData`."""
        params, dataset = config["training"]["training_params"], config["data"]["dataset"]
        made = build_dataset({**dataset, "tokenizer": tokenizer})
        tokens: TokenData = require_kind("data.dataset", dataset, made, TokenData)
        length, vocabulary = sequence_length(params), len(tokenizer)
        train = ShardRows(tokens.train, length, batch_size(params), vocabulary)
        validation = _validation_rows(tokens.validation, length, params["val_tokens_processed"], vocabulary)
        report = {
            split: {"rows": len(rows), "tokens": len(rows) * length, "shards": len(shards)}
            for split, rows, shards in (
                ("train", train, tokens.train),
                ("validation", validation, tokens.validation),
            )
        }
        return Items(train, validation, report, tokens.fingerprint)

    def collator(self) -> Collate:
        """Returns what stacks rows."""
        return TokenCollator()

    def order(self, items: Items, batch_size: int, steps: int, seed: int) -> TrainingOrder:
        """Returns the rows in the order in which they lie in the shards, again from the first after the last."""
        return SequentialOrder(items.train, batch_size, steps, seed, self.item_name)

    def sizes(self, items: Items, collator: Collate) -> Sizes:
        """Returns what every row has."""
        length = len(items.train[0]) - 1
        return Sizes(float(length), length, 1)

    def continuation(self, item: TokenRow) -> tuple[list[int], list[int] | None]:
        """Returns the first half of a row and its second half."""
        middle = self.limits.max_prompt_length
        return item[:middle].tolist(), item[middle:-1].tolist()

    def loss_denominator(self, batch: Batch) -> float:
        """Returns the number of tokens that are predicted."""
        return float(batch["labels"].numel())

    def batch_loss(
        self, model: PreTrainedModel, batch: Batch, metrics: MetricAccumulator, with_kl: bool
    ) -> tuple[Tensor, float]:
        """Returns the summed negative log-likelihood, a scalar in float32 or wider, and the number of tokens."""
        total, count = self.loss(self.forwards.logits(model, batch), batch["labels"]), self.loss_denominator(batch)
        metrics.add_sum("loss", total, count)
        return total, count

    def finish(self, means: dict[str, float]) -> dict[str, float]:
        """Adds the perplexity, exp(loss)."""
        return {**means, "perplexity": math.exp(min(means["loss"], _LARGEST_EXPONENT))} if "loss" in means else means


_LARGEST_EXPONENT = 700.0
"""Where exp still is a float; a loss that is no number stays none."""


def _validation_rows(shards: Sequence[Shard], length: int, wanted_tokens: int | None, vocabulary: int) -> ShardRows:
    """Returns the first rows of the validation shards: the same ones in every evaluation.

    Raises:
        DataError: If there are fewer than asked for.
    """
    rows = ShardRows(shards, length, 1, vocabulary)
    if wanted_tokens is None:
        return rows
    if wanted_tokens > (held := len(rows) * length):
        problem = f"must be at most the {held:,} tokens of whole validation sequences, but is {wanted_tokens:,}"
        fix = f"set it to {held}, or to null for all of them"
        raise DataError([Problem("training.training_params.val_tokens_processed", problem, fix)])
    return rows.first(wanted_tokens // length)


@dataclass(frozen=True)
class TokenCollator:
    """Batches of rows of tokens, all of one length."""

    def rows(self, item: TokenRow) -> list[Row]:
        """Returns the tokens that the model sees of a row."""
        return [(cast("Sequence[int]", item[:0]), cast("Sequence[int]", item[:-1]))]

    def __call__(self, batch: Sequence[TokenRow]) -> dict[str, Tensor | int]:
        """Returns `input_ids` and `labels`, (B, T) int64, where label t is the token after input t."""
        tokens = torch.from_numpy(np.stack(batch))
        return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "logits_to_keep": tokens.shape[1] - 1}
