"""What every objective says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gpt_opt.config.checks.losses import has_reference
from gpt_opt.errors import DataError, Problem
from gpt_opt.training.data.mixture import build_dataset
from gpt_opt.training.data.order import Batch, Collate, Collator, TrainingOrder
from gpt_opt.training.data.prepare import Items, prepare
from gpt_opt.training.data.records import DEMONSTRATIONS, Data, Record
from gpt_opt.training.data.tokenize import SequenceLimits
from gpt_opt.training.forwards import Forwards
from gpt_opt.training.losses import IGNORED
from gpt_opt.training.losses.predictions import Predictions
from gpt_opt.training.metrics import MetricAccumulator


class Sizes(NamedTuple):
    """How long training items are.

    Attributes:
        tokens: Mean tokens of an item, over its sequences.
        longest: Tokens of the longest sequence.
        sequences: Sequences of an item.
    """

    tokens: float
    longest: int
    sequences: int


class Objective(ABC):
    """What is trained on and what is minimised.

    Args:
        loss: What `loss._target_` made.
        limits: How long sequences may be.

    Attributes:
        item_name: What the items are called, in the plural, for people and in checkpoints.
        keeps_dropout: Whether the model is trained with the dropout that it came with.
        forwards: The models; set by the trainer before any batch is seen.
    """

    item_name: ClassVar[str]
    keeps_dropout: ClassVar[bool] = False
    forwards: Forwards

    def __init__(self, loss: Any, limits: SequenceLimits) -> None:
        self.loss, self.limits = loss, limits

    # -- items and batches --------------------------------------------------------------------------------------

    @abstractmethod
    def items(self, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> Items:
        """Returns what is trained and measured on: sequences of any items that the collator takes.

        Args:
            config: The resolved config; `data.dataset` names the data.
            tokenizer: Of the policy.

        Raises:
            DataError: If the data cannot be used.
        """

    def items_settings(self) -> Sequence[Any] | None:
        """Returns what of the loss `items` depends on beside data, tokenizer and limits; None where that is not told.

        Items that follow from nothing else are kept for other runs; see `gpt_opt.training.data.item_cache`.
        """
        return None

    @abstractmethod
    def collator(self) -> Collate:
        """Returns what makes batches of items, where the config names none."""

    def arrange(self, items: Sequence[Any]) -> Sequence[Any]:
        """Returns items as the collator takes them, as many as they are.

        Args:
            items: Those of one optimizer step over all processes, or the whole validation data.
        """
        return items

    def order(self, items: Items, batch_size: int, steps: int, seed: int) -> TrainingOrder:
        """Returns the training items of all steps in their order; see `TrainingOrder`."""
        return TrainingOrder(items.train, batch_size, steps, seed, self.item_name, self.arrange)

    def sizes(self, items: Items, collator: Collate) -> Sizes:
        """Returns how long the training items are as the collator takes them."""
        rows = [collator.rows(item) for item in self.arrange(items.train)]
        lengths = [len(prompt) + len(completion) for item in rows for prompt, completion in item]
        return Sizes(sum(lengths) / len(rows), max(lengths), len(rows[0]))

    @abstractmethod
    def continuation(self, item: Any) -> tuple[list[int], list[int] | None]:
        """Returns what generations of a validation item continue, and the completion that the data has for it.

        Returns:
            Token ids of a prompt; and of its completion, or None where the data has none that is wanted.
        """

    # -- loss ---------------------------------------------------------------------------------------------------

    def uses_reference(self, config: Mapping[str, Any]) -> bool:
        """Returns whether the loss or a metric compares the policy with a reference model, by the keys of the loss."""
        return has_reference(config)

    @abstractmethod
    def loss_denominator(self, batch: Batch) -> float:
        """Returns what the summed loss of a batch is divided by: its target tokens, its items.

        The mean loss of a step is the sum over all micro-batches and processes of `batch_loss`, divided by the sum of
        this (`num_items_in_batch` of transformers): so neither of them changes it.
        """

    def prepare(self, batches: Iterable[Batch]) -> None:  # noqa: B027  (most have nothing to compute)
        """Computes what the losses of a step, or of an evaluation, need to know of all its batches on all processes.

        Args:
            batches: Those of this process, on the CPU, before the first `batch_loss` of any of them.
        """

    @abstractmethod
    def batch_loss(
        self, model: PreTrainedModel, batch: Batch, metrics: MetricAccumulator, with_kl: bool
    ) -> tuple[Tensor, float]:
        """Returns the loss of a batch, and adds its metrics.

        Args:
            model: The policy, as the gradients want it called: wrapped for data parallelism.
            batch: What the collator made, on the device.
            metrics: Where to add values: `metrics.add({name: tensor (B,)})` for a value an item.
            with_kl: Whether metrics that cost extra are wanted: before a log line, and in evaluations.

        Returns:
            The loss in nats summed over the batch, a scalar with gradient, float32 or wider; and `loss_denominator` of
            the batch.
        """

    def policy_logps(self, batch: Batch) -> Tensor:
        """Returns the log-probabilities of the completions of a batch under the policy, (R,) in float32 or wider."""
        return self.forwards.predictions(self.forwards.policy, batch).logps()

    def finish(self, means: dict[str, float]) -> dict[str, float]:
        """Returns the means of all metrics between two log lines, or of an evaluation, and what follows from them."""
        return means


class RecordObjective(Objective):
    """An objective over records: texts that are tokenized and truncated one by one."""

    @abstractmethod
    def records(self, data: Data) -> Data:
        """Returns the records that the loss takes, made of what the data has.

        Raises:
            DataError: If the data has records that the loss cannot use.
        """

    def items(self, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> Items:
        """Returns the records of `data.dataset` with token ids."""
        return prepare(self.records(build_dataset(config["data"]["dataset"])), tokenizer, self.limits)

    def collator(self) -> Collate:
        """Returns a collator of prompts with each of their completions."""
        return Collator()

    def continuation(self, item: Any) -> tuple[list[int], list[int] | None]:
        """Returns the prompt of a record and its wanted completion."""
        return item.prompt, item.wanted


def require_kinds(data: Data, kinds: set[str], wanted: str) -> None:
    """Checks that all records are of kinds that a loss takes.

    Args:
        data: The data set.
        kinds: Those that it takes, of `gpt_opt.training.data.records`.
        wanted: What to call them.

    Raises:
        DataError: If some are not.
    """
    records: list[Record] = [*data.train, *data.validation]
    if not (unfit := [record for record in records if record.kind not in kinds]):
        return
    has_demonstrations = any(record.kind == DEMONSTRATIONS for record in unfit)
    kind = "demonstrations (no rejected completion, no label)" if has_demonstrations else unfit[0].kind
    first = f", the first: {unfit[0].source}" if unfit[0].source else ""
    problem = f"must give {wanted} for this loss, but {len(unfit):,} of {len(records):,} rows are {kind}{first}"
    learns = "take loss=sft, which learns from demonstrations"
    fix = learns if has_demonstrations else "take loss=kto, which needs no pairs"
    raise DataError([Problem("data.dataset", problem, f"{fix}, or data with {wanted}")])


def completion_tokens(batch: Batch) -> Tensor:
    """Returns the number of completion tokens of each row, (R,) int64."""
    return cast("Tensor", (batch["labels"] != IGNORED).sum(-1))


def reference_logps(
    forwards: Forwards, batch: Batch, wanted: bool, needed: bool = True
) -> tuple[Tensor | None, Predictions | None]:
    """Returns what the reference says of the completions of a batch.

    Args:
        forwards: The models.
        batch: Where they were computed before, it has `reference_logps`.
        wanted: Whether the predictions themselves are wanted, where the reference is at hand.
        needed: Whether the loss needs the log-probabilities.

    Returns:
        Log-probabilities of the rows, (R,) in float32 or wider; and the predictions, where they were
        computed. None without a reference.
    """
    logps = batch.get("reference_logps")
    predictions = forwards.reference_predictions(batch) if wanted or (needed and logps is None) else None
    # Computed as the policy's are, those of an equal model are equal to the bit, as others are not.
    return (logps if predictions is None else predictions.logps()), predictions
