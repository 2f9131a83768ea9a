"""An average of the weights, which is evaluated and saved instead of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gpt_opt.errors import ConfigError, Problem
from gpt_opt.training.optimizers.base import full_precision
from gpt_opt.training.optimizers.protocols import HasModes
from gpt_opt.training.optimizers.steps import around_step

_KEY = "training.training_params.ema_decay"


class WeightAverage:
    """An exponential moving average of the trained weights over optimizer steps, float32 at least.

    average <- d average + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) after n steps: the first of them is
    forgotten soon, however short the training (as in TensorFlow's ExponentialMovingAverage).

    Args:
        model: The policy, not wrapped.
        optimizer: Over its trainable parameters.
        decay: In (0, 1).

    Raises:
        ConfigError: If the optimizer itself has other weights to evaluate.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, decay: float) -> None:
        if isinstance(optimizer, HasModes):
            problem = f"must be null with {type(optimizer).__name__}, which averages the weights itself, but is {decay}"
            raise ConfigError([Problem(_KEY, problem)])
        self.decay = decay
        self.updates = 0
        self._weights = {name: item for name, item in model.named_parameters() if item.requires_grad}
        self._average: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}
        around_step(optimizer, lambda: None, self._update)

    @torch.no_grad()
    def _update(self) -> None:
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, weight in self._weights.items():
            value = full_precision(weight.detach())
            if self.updates:
                self._average[name].lerp_(value, 1 - kept)
            else:
                self._average[name] = value.clone()
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Has the average in the model inside the block; before the first step the weights are their own average."""
        self._trained = {name: self._weights[name].detach().clone() for name in self._average}
        self._set(self._average)
        try:
            yield
        finally:
            self._set(self._trained)
            self._trained = {}

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._weights[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Returns the average, and the weights in training, which a checkpoint has nowhere else."""
        return {"updates": self.updates, "average": dict(self._average), "weights": dict(self._trained)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned inside `in_place`, with the weights in training in the model."""
        self.updates = saved["updates"]
        self._set(saved["weights"])
        self._average = {
            name: value.to(self._weights[name].device, copy=True) for name, value in saved["average"].items()
        }


def load_average(average: WeightAverage | None, saved: Mapping[str, Any] | None) -> None:
    """Gives an average what a checkpoint has of it.

    Raises:
        ConfigError: If one of them is None: a checkpoint with an average has other weights than those in training.
    """
    if (average is None) != (saved is None):
        has = "has no average of weights" if saved is None else "holds an average in place of the weights in training"
        problem = f"must be as in the training of the checkpoint, which {has}"
        raise ConfigError([Problem(_KEY, problem, "keep the key, or train anew: rerun=true")])
    if average is not None and saved is not None:
        average.load_state_dict(saved)
