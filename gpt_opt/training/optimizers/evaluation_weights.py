"""The weights that are evaluated and saved in place of those in training: an optimizer's own, or an average."""

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
from gpt_opt.training.optimizers.state import parameter_names
from gpt_opt.training.optimizers.steps import around_step

_KEY = "training.training_params.ema_decay"


class EvaluationWeights:
    """Puts other weights into the model for a while, then those in training back, bit for bit.

    They are those of the optimizer's `eval` where it has modes, or an exponential moving average over optimizer steps,
    float32 at least: average <- d average + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) after n steps, as in
    TensorFlow's ExponentialMovingAverage: the first of them are forgotten soon, however short the training.

    Args:
        optimizer: Over the trained weights.
        decay: Of the average, in (0, 1); None: there is none.

    Raises:
        ConfigError: If there would be an average of an optimizer's own.
    """

    def __init__(self, optimizer: Optimizer, decay: float | None = None) -> None:
        if decay is not None and isinstance(optimizer, HasModes):
            problem = f"must be null with {type(optimizer).__name__}, which averages the weights itself, but is {decay}"
            raise ConfigError([Problem(_KEY, problem)])
        self.optimizer = optimizer
        self.updates = 0
        self._decay = decay
        self._average: list[Tensor] = []
        self._in_training: list[Tensor] = []
        if decay is not None:
            around_step(optimizer, lambda: None, lambda: self._update(decay))

    @property
    def _weights(self) -> list[Tensor]:
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    @torch.no_grad()
    def _update(self, decay: float) -> None:
        kept = min(decay, (1 + self.updates) / (10 + self.updates))
        if not self.updates:
            self._average = [full_precision(weight).clone() for weight in self._weights]
        for average, weight in zip(self._average, self._weights, strict=True):
            average.lerp_(full_precision(weight), 1 - kept)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Has them in the model inside the block; before the first step they are the weights in training."""
        if not isinstance(self.optimizer, HasModes) and not self._average:
            yield
            return
        self._in_training = [weight.detach().clone() for weight in self._weights]
        if isinstance(self.optimizer, HasModes):
            self.optimizer.eval()
        else:
            self._set(self._average)
        try:
            yield
        finally:
            self._train(self._in_training)
            self._in_training = []

    def _train(self, weights: list[Tensor]) -> None:
        if isinstance(self.optimizer, HasModes):
            self.optimizer.train()  # whose own way back may round
        self._set(weights)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def state_dict(self, model: nn.Module) -> dict[str, Any]:
        """Returns, by the names of the model, the weights in training and the average; empty outside `in_place`."""
        if not self._in_training:
            return {}
        names = parameter_names(model, self.optimizer)
        state = {"weights": dict(zip(names, self._in_training, strict=True))}
        if self._decay is None:
            return state
        return {**state, "average": dict(zip(names, self._average, strict=True)), "updates": self.updates}

    def load_state_dict(self, model: nn.Module, saved: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned, after the optimizer has its state.

        Raises:
            ConfigError: If there is an average here or there alone: its checkpoint has other weights than others.
        """
        if ("average" in saved) != (self._decay is not None):
            has = "holds an average of the weights" if "average" in saved else "has no average of the weights"
            problem = f"must be as in the training of the checkpoint, which {has}"
            raise ConfigError([Problem(_KEY, problem, "keep the key, or train anew: rerun=true")])
        if not saved:  # of a version that left the way back to the optimizer
            return
        names = parameter_names(model, self.optimizer)
        self._train([saved["weights"][name] for name in names])
        if self._decay is not None:
            self.updates = saved["updates"]
            averages = (saved["average"][name] for name in names)
            self._average = [value.to(own.device) for value, own in zip(averages, self._weights, strict=True)]
