"""What the optimizers of this package share: states of full precision, the loss of the batch, Adam beside matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gpt_opt.training.optimizers.routing import Group

Trained = tuple[Tensor, Tensor]
"""A parameter and its gradient in full precision."""


def full_precision(tensor: Tensor) -> Tensor:
    """Returns a tensor of any shape, one of 16 bits as float32, any other as it is."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


class FullPrecisionOptimizer(Optimizer):
    """An optimizer whose states and updates have at least float32, also where the weights have 16 bits.

    What belongs to no parameter is in `self.state["shared"]`, which goes through `state_dict` as the rest does.
    """

    @property
    def shared(self) -> dict[str, Any]:
        """State that belongs to no single parameter."""
        shared: dict[str, Any] = self.state["shared"]  # type: ignore[index]
        return shared

    def treatment(self, group: Group) -> str:
        """Returns what the parameters of a group go with, in words."""
        return "all alike"

    def trained(self, group: Group | None = None) -> list[Trained]:
        """Returns the parameters of a group, or of all, that have a gradient."""
        groups = self.param_groups if group is None else [group]
        parameters = [parameter for item in groups for parameter in item["params"]]
        return [(item, full_precision(item.grad)) for item in parameters if item.grad is not None]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads a state as it was saved; torch alone would give it the type of the weights."""
        super().load_state_dict(dict(state_dict))
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = value.to(parameter.device, copy=True)


class UsesBatchLoss(FullPrecisionOptimizer):
    """An optimizer whose step depends on the loss of its batch; see `protocols.UsesLoss`.

    Attributes:
        loss: The one observed since the last step, () in float32 or wider; None for none.
    """

    loss: Tensor | None = None

    def observe_loss(self, loss: Tensor) -> None:
        """Takes the loss of the batch whose gradients are next, () in float32 or wider: its mean over all ranks."""
        self.loss = loss.detach()

    def take_loss(self) -> Tensor:
        """Returns the loss that was observed since the last step, () in float32 or wider.

        Raises:
            RuntimeError: If there is none.
        """
        if self.loss is None:
            raise RuntimeError(f"{type(self).__name__} needs the loss of each batch: call observe_loss before step")
        loss, self.loss = self.loss, None
        return loss


def subtract(parameter: Tensor, update: Tensor, kept: float = 1.0) -> None:
    """Sets a parameter to `kept * parameter - update`, rounded once.

    Args:
        parameter: Any shape and float type.
        update: The same shape, full precision.
        kept: What decoupled weight decay leaves, 1 - lr * weight_decay.
    """
    if parameter.dtype == update.dtype:
        parameter.mul_(kept).sub_(update)
    else:
        parameter.copy_(full_precision(parameter) * kept - update)


def subtract_all(
    parameters: list[Tensor], updates: list[Tensor], scales: list[Tensor] | float, kept: float = 1.0
) -> None:
    """Does `subtract` for several parameters at once, each update times its scale.

    Args:
        parameters: Any shapes and types.
        updates: The same shapes, full precision; they are not kept.
        scales: Of each update, each () of its type; or one of all.
        kept: What decoupled weight decay leaves, 1 - lr * weight_decay.
    """
    if not parameters:
        return
    if any(item.dtype != update.dtype for item, update in zip(parameters, updates, strict=True)):
        each: Sequence[Tensor | float] = [scales] * len(updates) if isinstance(scales, float) else scales
        for item, update, scale in zip(parameters, updates, each, strict=True):
            subtract(item, update * scale, kept)
        return
    if kept != 1:
        torch._foreach_mul_(parameters, kept)
    if isinstance(scales, float):
        torch._foreach_add_(parameters, updates, alpha=-scales)
    else:
        torch._foreach_mul_(updates, scales)
        torch._foreach_sub_(parameters, updates)


def inner(first: Iterable[Tensor], second: Iterable[Tensor]) -> Tensor:
    """Returns the inner product of two lists of tensors of equal shapes and one type, () of that type."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def summed_momentum(state: dict[str, Any], gradient: Tensor, decay: float, nesterov: bool) -> Tensor:
    """Returns the sum of gradients, each step times `decay`; with `nesterov` the gradient and `decay` times that sum.

    The sum is kept in the state of the parameter, under `momentum_buffer`, and may be what is returned. Both have the
    shape of the gradient, any shape, and its type, full precision.
    """
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    summed: Tensor = state["momentum_buffer"].mul_(decay).add_(gradient)
    return gradient + decay * summed if nesterov else summed


def adam_step(state: dict[str, Any], gradient: Tensor, betas: Sequence[float], eps: float, step: int) -> Tensor:
    """Returns the update of Adam with eps added to the uncorrected root of the second moment; per unit of lr.

    It is what runs beside the matrices in the code of Muon and of DAP that the results were reported with: against
    torch's Adam its eps is larger by 1 / sqrt(1 - beta2^t).

    Args:
        state: Of the parameter; gets `exp_avg` and `exp_avg_sq`.
        gradient: Of any shape, full precision; the update and both means have its shape and type.
        betas: Decay of the means of gradient and squared gradient.
        eps: Added to the denominator.
        step: From 1.
    """
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    beta1, beta2 = betas
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    update: Tensor = mean / (square.sqrt() + eps) * ((1 - beta2**step) ** 0.5 / (1 - beta1**step))
    return update
