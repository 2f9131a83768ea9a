"""Policy and reference of a training as its objective calls them, whatever wraps or shards them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from gpt_opt.training.data.order import Batch
from gpt_opt.training.distributed import Processes
from gpt_opt.training.models.build import Reference, cast_weights
from gpt_opt.training.sharding import shard_reference


class Forwards:
    """The models of a training.

    Args:
        trainer: Which has the policy; its accelerator is made.
        reference: What the policy is compared with, where there is one; it moves to the device of the policy.
        processes: Of the training.

    Attributes:
        activity: What the forwards are for, in words for an error.
    """

    def __init__(self, trainer: Trainer, reference: Reference | None, processes: Processes) -> None:
        self._trainer, self.reference, self._processes = trainer, reference, processes
        self.activity, self._shape = "the start", (0, 0)
        self._unwrapped: tuple[object, PreTrainedModel] | None = None
        if reference is not None and reference.model is not None:
            cast("nn.Module", reference.model).to(self.device).eval().requires_grad_(False)
            if trainer.is_deepspeed_enabled:  # which has no autocast: it rounds the weights of the policy
                cast_weights(reference.model, trainer.args.hf_deepspeed_config.dtype())
            reference.model = shard_reference(reference.model, trainer.args, trainer.accelerator)

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
        """Returns the logits (R, K, V) of the last K positions, in the type that the model computes with."""
        keep, self._shape = batch["logits_to_keep"], tuple(batch["input_ids"].shape)
        output = model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=keep)
        return cast("Tensor", output.logits[:, -keep:])

    def reference_logits(self, batch: Batch) -> Tensor | None:
        """Returns those of the reference (R, K, V), float32 and without gradient; None without a reference."""
        if self.reference is None:
            return None
        # Forwards of the policy, and of all that FSDP shards, have their precision with them; so has every output.
        precision = nullcontext() if self._trainer.is_fsdp_enabled else self._trainer.accelerator.autocast()
        with self.reference.of(self.policy) as model, precision:
            return self.logits(model, batch).float()

    def on_device(self, batch: Batch) -> Batch:
        """Returns a batch with its tensors on the device of the models."""
        return cast("dict[str, Any]", self._trainer._prepare_inputs(batch))

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of a tensor over the processes of the training; all of them have to call it."""
        return self._processes.sum(values)

    @contextmanager
    def generating(self, activity: str) -> Iterator[tuple[PreTrainedModel, Reference | None]]:
        """Lends policy and reference to generate with; all processes take part, as sharded models need it."""
        self.activity, self._shape = activity, (0, 0)
        model, training = self.policy, self.policy.training
        model.eval()
        with self._trainer.accelerator.autocast():  # the reference alone would generate in full precision
            yield model, self.reference
        model.train(training)

    def describe(self) -> str:
        """Returns what is worked on, and the shape of the batch."""
        rows, width = self._shape
        return f"{self.activity}: a batch of {rows} sequences x {width} tokens" if rows else self.activity
