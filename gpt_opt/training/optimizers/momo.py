"""MoMo and MoMo-Adam (Schaipp et al. 2023, arXiv 2305.07583): step sizes from a model of the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt_opt.training.optimizers.base import Trained, UsesBatchLoss, full_precision, inner
from gpt_opt.training.optimizers.routing import Group


class _Momo(UsesBatchLoss):
    """The step size that both share: lr where the model of the loss allows it, less near its lower bound."""

    def __init__(self, params: Iterable[Any], settings: Group) -> None:
        super().__init__(params, settings)
        if len(self.param_groups) != 1:
            raise ValueError("MoMo has one step size for all parameters, so it takes one group of them")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step; `observe_loss` comes before it."""
        loss, trained = full_precision(self.take_loss()), self.trained()
        if not trained:
            return
        if not self.shared:
            self.shared.update(step=0, lb=torch.full_like(loss, self.param_groups[0]["lb"]))
        self.shared["step"] += 1
        self._update(self.param_groups[0], trained, loss)

    @abstractmethod
    def _update(self, group: Group, trained: Sequence[Trained], loss: Tensor) -> None:
        """Changes the parameters.

        Args:
            group: The settings.
            trained: Parameters with their gradients.
            loss: Of the batch, shape ().
        """

    def _average(self, beta: float, **values: Tensor) -> None:
        """Moves shared means towards values of this step."""
        for name, value in values.items():
            self.shared[name] = self.shared[name].lerp(value, 1 - beta)

    def _step_size(self, group: Group, rho: float, along: Tensor, norm: Tensor) -> Tensor:
        """Returns tau of Algorithms 1 and 2, shape (), and moves the lower bound where it is estimated.

        Args:
            group: The settings.
            rho: Bias correction of the means.
            along: Inner product of weights and momentum, shape ().
            norm: Squared dual norm of the momentum, shape ().
        """
        shared, c = self.shared, 1 + group["lr"] * group["weight_decay"]
        height = c * shared["loss"] + along - c * shared["gamma"]
        if group["use_fstar"]:
            low = height < c * rho * shared["lb"]
            shared["lb"] = torch.where(low, (height / (2 * c * rho)).clamp_min(group["lb"]), shared["lb"])
        most = group["lr"] / rho
        gap = (height - c * rho * shared["lb"]).clamp_min(0)
        tau = torch.where(norm > 0, (gap / norm).clamp_max(most), torch.full_like(norm, most))
        if group["use_fstar"]:
            left = shared["loss"] + along - shared["gamma"]
            shared["lb"] = ((left - tau * norm / 2) / rho).clamp_min(group["lb"])
        return tau


class Momo(_Momo):
    """MoMo: SGD with momentum, Algorithm 1.

    Args:
        params: Parameters, in one group.
        lr: The largest step size.
        weight_decay: Decay, in proximal form.
        beta: Decay of the means, in [0, 1).
        lb: Lower bound of the loss.
        bias_correction: Whether the means start at zero and are corrected; otherwise they start at the first values.
        use_fstar: Whether the lower bound is estimated, from `lb` on (MoMo*).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        weight_decay: float = 0.0,
        beta: float = 0.9,
        lb: float = 0.0,
        bias_correction: bool = False,
        use_fstar: bool = False,
    ) -> None:
        settings = {"lr": lr, "weight_decay": weight_decay, "beta": beta, "lb": lb}
        super().__init__(params, {**settings, "bias_correction": bias_correction, "use_fstar": use_fstar})

    def _update(self, group: Group, trained: Sequence[Trained], loss: Tensor) -> None:
        beta, corrected = group["beta"], group["bias_correction"]
        values, gradients = [full_precision(parameter) for parameter, _ in trained], [item for _, item in trained]
        product = inner(values, gradients)
        if "loss" not in self.shared:
            self.shared.update(loss=loss, gamma=product)
            if corrected:
                self.shared.update(loss=torch.zeros_like(loss), gamma=torch.zeros_like(product))
        self._average(beta, loss=loss, gamma=product)
        means = []
        for parameter, gradient in trained:
            state = self.state[parameter]
            if "mean" not in state:
                state["mean"] = torch.zeros_like(gradient) if corrected else gradient.clone()
            means.append(state["mean"].lerp_(gradient, 1 - beta))
        rho = 1 - beta ** self.shared["step"] if corrected else 1.0
        tau = self._step_size(group, rho, inner(values, means), inner(means, means))
        for (parameter, _), value, mean in zip(trained, values, means, strict=True):
            parameter.copy_((value - tau * mean) / (1 + group["lr"] * group["weight_decay"]))


class MomoAdam(_Momo):
    """MoMo-Adam: Adam, Algorithm 2.

    Args:
        params: Parameters, in one group.
        lr: The largest step size.
        betas: Decay of the means of gradient and squared gradient, each in [0, 1).
        eps: Added to the denominator.
        weight_decay: Decoupled decay.
        lb: Lower bound of the loss.
        divide: Whether decay divides by 1 + lr * weight_decay after the step; otherwise it multiplies by
            1 - lr * weight_decay before it.
        use_fstar: Whether the lower bound is estimated, from `lb` on (MoMo-Adam*).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lb: float = 0.0,
        divide: bool = True,
        use_fstar: bool = False,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "lb": lb}
        super().__init__(params, {**settings, "divide": divide, "use_fstar": use_fstar})

    def _update(self, group: Group, trained: Sequence[Trained], loss: Tensor) -> None:
        beta1, beta2 = group["betas"]
        values, gradients = [full_precision(parameter) for parameter, _ in trained], [item for _, item in trained]
        product = inner(values, gradients)
        self.shared.setdefault("loss", torch.zeros_like(loss))
        self.shared.setdefault("gamma", torch.zeros_like(product))
        self._average(beta1, loss=loss, gamma=product)
        step = self.shared["step"]
        means, scaled = [], []
        for parameter, gradient in trained:
            state = self.state[parameter]
            if "mean" not in state:
                state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            means.append(state["mean"].lerp_(gradient, 1 - beta1))
            square = state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            scaled.append(means[-1] / ((square / (1 - beta2**step)).sqrt() + group["eps"]))
        tau = self._step_size(group, 1 - beta1**step, inner(values, means), inner(means, scaled))
        decay = group["lr"] * group["weight_decay"]
        for (parameter, _), value, direction in zip(trained, values, scaled, strict=True):
            left = (value - tau * direction) / (1 + decay) if group["divide"] else value * (1 - decay) - tau * direction
            parameter.copy_(left)
