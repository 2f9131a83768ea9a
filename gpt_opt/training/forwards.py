"""Policy and reference of a training as its objective calls them, whatever wraps or shards them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from gpt_opt.training.data.order import Batch
from gpt_opt.training.data.packing import Packed
from gpt_opt.training.distributed import Processes
from gpt_opt.training.kept_predictions import LEAST_BYTES, KeptPredictions
from gpt_opt.training.losses.predictions import Predictions
from gpt_opt.training.memory import bytes_of
from gpt_opt.training.models.build import Reference, cast_weights, has_dropout
from gpt_opt.training.packed_forwards import LOGITS_BYTES, Ways, forward_logits, predict, prove, worth_packing
from gpt_opt.training.sharding import shard_reference


class Forwards:
    """The models of a training.

    Args:
        trainer: Which has the policy; its accelerator is made.
        reference: What the policy is compared with, where there is one; it moves to the device of the policy.
        processes: Of the training.
        longest: Tokens of the longest sequence there may be.
    """

    def __init__(self, trainer: Trainer, reference: Reference | None, processes: Processes, longest: int) -> None:
        self._trainer, self.reference, self._processes, self._longest = trainer, reference, processes, longest
        self.begin("the start")
        self._unwrapped: tuple[object, PreTrainedModel] | None = None
        self._ways: WeakKeyDictionary[nn.Module, Ways] = WeakKeyDictionary()
        policy = cast("PreTrainedModel", trainer.model)
        self._half = trainer.accelerator.mixed_precision != "no" or policy.dtype.itemsize == 2
        self._drops = has_dropout(cast("nn.Module", policy))
        self._kept: KeptPredictions | None = None
        self._keeps = False
        self._reference_packs = True
        if reference is not None and reference.fingerprint is not None:
            self._kept = KeptPredictions(max(LEAST_BYTES, bytes_of((reference.model or policy).parameters())))
        if reference is not None and reference.model is not None:
            reference.model.eval().requires_grad_(False)
            if self._is_sharded:
                self._shard(reference, reference.model)

    def _shard(self, reference: Reference, model: PreTrainedModel) -> None:
        cast("nn.Module", model).to(self.device)
        if self._trainer.is_deepspeed_enabled:  # which has no autocast: it rounds the weights of the policy
            cast_weights(model, self._trainer.args.hf_deepspeed_config.dtype())
        reference.model = shard_reference(model, self._trainer.args, self._trainer.accelerator)

    @property
    def _is_sharded(self) -> bool:
        return bool(self._trainer.is_fsdp_enabled or self._trainer.is_deepspeed_enabled)

    @property
    def policy(self) -> PreTrainedModel:
        """The trained model itself, without the wrappers of data parallelism."""
        model = self._trainer.model
        if self._unwrapped is None or self._unwrapped[0] is not model:  # accelerate looks for DeepSpeed each time, 2 ms
            self._unwrapped = (model, cast("PreTrainedModel", self._trainer.accelerator.unwrap_model(model)))
        return self._unwrapped[1]

    @property
    def device(self) -> torch.device:
        """Where batches and logits are."""
        return self._trainer.args.device

    def logits(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Returns the logits (R, K, V) of the last K positions, any float type: what the model computes with."""
        self._batch = _padded_words(*batch["input_ids"].shape)
        return forward_logits(model, batch)

    def predictions(self, model: PreTrainedModel, batch: Batch) -> Predictions:
        """Returns what a model says of the completions of a batch: the policy, as gradients want it called."""
        if self._keeps and self.reference is not None and self.reference.is_policy:
            return cast("Predictions", self.reference_predictions(batch))  # which are the same, and there already
        return self._predictions(model, self.policy, batch)

    def reference_predictions(self, batch: Batch) -> Predictions | None:
        """Returns those of the reference, without gradient; None without a reference."""
        if self.reference is None:
            return None
        kept = self._kept if self._keeps else None
        if kept is not None and (known := kept.get(batch, self.device)) is not None:
            return known
        self._move_reference(self.device)
        # Forwards of the policy, and of all that FSDP shards, have their precision with them; so has every output.
        precision = nullcontext() if self._trainer.is_fsdp_enabled else self._trainer.accelerator.autocast()
        with self.reference.of(self.policy) as model, precision:
            predictions = self._predictions(model, model, batch)
        if kept is not None:
            kept.add(batch, predictions, changes=self.reference.is_policy)
        return predictions

    def _predictions(self, model: PreTrainedModel, unwrapped: PreTrainedModel, batch: Batch) -> Predictions:
        packed = batch["packed"].to(self.device) if worth_packing(batch) and self._packs(batch) else None
        head = self._ways_of(unwrapped, batch).head if "packed" in batch else None
        if head is not None and not self._half:
            places = batch["labels"].numel() if packed is None else len(packed.targets)
            head = head if places * head.out_features * 4 > LOGITS_BYTES else None
        rows, width = batch["input_ids"].shape
        self._batch = _padded_words(rows, width) if packed is None else _packed_words(rows, width, packed)
        return predict(model, batch, packed, head)

    def _packs(self, batch: Batch) -> bool:
        """Returns whether both models take packed batches; with dropout completions would share that of the prompt.

        A reference that is not on the device is not called; what is kept of it is as it was computed.
        """
        if self._drops and self.policy.training:
            return False
        other = self.reference.model if self.reference is not None else None
        is_called = other is not None and other.device == self.device
        if other is not None and is_called:
            self._reference_packs = self._ways_of(other, batch).packs
        return self._ways_of(self.policy, batch).packs and (self._reference_packs or not (is_called or self._keeps))

    def _ways_of(self, model: PreTrainedModel, batch: Batch) -> Ways:
        """Returns how a model may be computed, found out when first asked; one that is sharded or compiled as it is."""
        module = cast("nn.Module", model)
        if self._is_sharded or self._trainer.args.torch_compile:
            return Ways()
        if module not in self._ways:
            self._batch = _padded_words(2, self._longest)
            self._ways[module] = prove(model, batch["input_ids"].unique(), self._longest, self._half)
        return self._ways[module]

    def reference_logps(self, batch: Batch) -> Tensor:
        """Returns the log-probabilities of the completions of a batch under the reference, (R,) float32 or wider."""
        predictions = self.reference_predictions(batch)
        assert predictions is not None
        return predictions.logps()

    @property
    def starts_as_reference(self) -> bool:
        """Whether policy and reference are equal before the first step."""
        return self.reference is not None and self.reference.is_initial

    @contextmanager
    def with_reference(self, leaves: bool, keeps: bool = False) -> Iterator[None]:
        """Says what becomes of the reference after the block.

        Args:
            leaves: It is not needed on the device then.
            keeps: What it says inside is kept, for the next such block.
        """
        self._keeps = keeps
        try:
            yield
        finally:
            self._keeps = False
        if keeps and self._kept is not None:
            self._kept.leave()
        if leaves:
            self._move_reference(torch.device("cpu"))

    def secure_reference(self, asks: bool) -> None:
        """Sees to it, before the policy changes, that the reference can be asked whenever it will be.

        Args:
            asks: Whether steps will ask it; evaluations ask for what is kept of it where that is all.
        """
        if self.reference is None or not self.reference.is_policy:
            return
        self.reference.is_policy = False
        if asks or not self._keeps_all:
            self.reference.copy_weights(self.policy)
            self._move_reference(torch.device("cpu"))

    def release_reference(self) -> None:
        """Frees the weights of a reference that only evaluations ask, where all is kept that it says there."""
        if self.reference is not None and self._keeps_all:
            self.reference.model = None

    @property
    def _keeps_all(self) -> bool:
        """Whether evaluations need the reference no more."""
        return self._kept is not None and self._kept.is_whole

    def _move_reference(self, device: torch.device) -> None:
        model = self.reference.model if self.reference is not None else None
        if model is not None and not self._is_sharded and model.device != device:
            cast("nn.Module", model).to(device)

    def on_device(self, batch: Batch) -> Batch:
        """Returns a batch with its tensors on the device of the models."""
        return cast("dict[str, Any]", self._trainer._prepare_inputs(batch))

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of a tensor over the processes of the training, by `Processes.sum`: of any shape and type."""
        return self._processes.sum(values)

    @contextmanager
    def generating(self, activity: str) -> Iterator[tuple[PreTrainedModel, Reference | None]]:
        """Lends policy and reference to generate with; all processes take part, as sharded models need it.

        The reference is None where there is none, or none any more.
        """
        self.begin(activity)
        model, training = self.policy, self.policy.training
        model.eval()
        self._move_reference(self.device)
        with self._trainer.accelerator.autocast():  # the reference alone would generate in full precision
            yield model, None if self.reference is None or self.reference.is_gone else self.reference
        model.train(training)

    def begin(self, activity: str) -> None:
        """Says what the coming forwards are for, in words for an error; they have no batch yet."""
        self._activity, self._batch = activity, ""

    def describe(self) -> str:
        """Returns what is worked on, and the size of its last batch."""
        return f"{self._activity}: {self._batch}" if self._batch else self._activity


def _padded_words(rows: int, width: int) -> str:
    return f"a batch of {rows} sequences x {width} tokens"


def _packed_words(rows: int, width: int, packed: Packed) -> str:
    return f"a batch of {rows} sequences of up to {width} tokens, packed into {packed.ids.numel()} tokens"
