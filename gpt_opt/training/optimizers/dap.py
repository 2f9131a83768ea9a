"""DAP: gradients of linear layers times a pseudo-inverse of the second moment of the layers' inputs.

That matrix is the input factor of K-FAC (Martens and Grosse 2015, arXiv 1503.05671). Hooks, which are no part of the
model, gather it in the forward passes of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gpt_opt.training.optimizers.base import (
    FullPrecisionOptimizer,
    adam_step,
    full_precision,
    subtract,
    summed_momentum,
)
from gpt_opt.training.optimizers.pseudo_inverse import accelerated_inverse, largest_eigenvalue, newton_schulz_inverse
from gpt_opt.training.optimizers.roles import NamedParameter, Role
from gpt_opt.training.optimizers.routing import Group, matrix_groups


def micro_batch_stride(rate: float, micro_batches: int) -> tuple[int, float | None]:
    """Returns every how many micro-batches inputs are gathered, and the fraction of their rows (None: all of them).

    Args:
        rate: Fraction of all rows that is wanted, in (0, 1].
        micro_batches: Micro-batches of an optimizer step.
    """
    stride = min(max(1, round(1 / rate)), micro_batches)
    return stride, micro_batches * rate if micro_batches < 1 / rate else None


def systematic_rows(rows: int, fraction: float, phase: int) -> tuple[list[int], int]:
    """Returns which rows a systematic sample of a stream of rows takes, and the phase after them.

    Args:
        rows: Rows that come now.
        fraction: Fraction of all rows, in (0, 1].
        phase: What is left of the rows before, in units of 2^-32; 0 at the start of a step.
    """
    one, advance = 1 << 32, round(fraction * (1 << 32))
    taken = [row for row in range(rows) if (phase + (row + 1) * advance) // one > (phase + row * advance) // one]
    return taken, (phase + rows * advance) % one


class _Inputs:
    """Gathers X^T X of the inputs of one linear layer over the forward passes of a step, in float32 at least."""

    def __init__(self, module: nn.Module, owner: DAP) -> None:
        self.total: Tensor | None = None
        self.rows = 0
        self.phase = 0
        self.owner = owner
        module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        stride, fraction = self.owner.sampling()
        if self.owner.micro_batch % stride:
            return
        inputs = arguments[0].detach()
        with torch.autocast(inputs.device.type, enabled=False):
            x = full_precision(inputs).reshape(-1, inputs.shape[-1])
            if fraction is not None:
                x = self._sample(x, fraction)
            product = x.mT @ x
        self.total = product if self.total is None else self.total + product
        self.rows += len(x)

    def _sample(self, x: Tensor, fraction: float) -> Tensor:
        if self.owner.param_groups[0]["row_sampling"] == "first":
            return x[: max(1, int(fraction * len(x)))]
        taken, self.phase = systematic_rows(len(x), fraction, self.phase)
        return x[taken]

    def take(self, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns X^T X of (size, size) and the number of rows, shape (), of all processes, and begins anew."""
        total = torch.zeros(size, size, dtype=like.dtype, device=like.device) if self.total is None else self.total
        rows = torch.tensor(float(self.rows), dtype=total.dtype, device=total.device)
        self.total, self.rows, self.phase = None, 0, 0
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
            torch.distributed.all_reduce(rows)
        return total, rows


class DAP(FullPrecisionOptimizer):
    """NAdam or Nesterov momentum of gradients, times a pseudo-inverse of the inputs' second moment; Adam beside it.

    Weights of nn.Linear and of GPT-2's Conv1D that have the role matrix are preconditioned; all other parameters go
    with Adam at the same lr and decay.

    Args:
        named_parameters: All trainable parameters.
        lr: Learning rate.
        dap_beta1: Decay of the mean of gradients; 0 takes a sum with `momentum` instead.
        dap_beta2: Decay of the mean of squared preconditioned gradients; 0 leaves the division out.
        momentum: Decay of the sum of gradients where dap_beta1 is 0.
        nesterov: Whether the mean, or the sum, looks a step ahead.
        weight_decay: Decoupled decay of all parameters, per unit of lr.
        dap_eps: Added to the root of the second moment.
        use_ns_pinv: Whether the inverse is iterated; otherwise it is exact.
        accelerated: True, or a number that is added to every eigenvalue: the scaled iteration; false: Newton-Schulz
            with a threshold.
        ns_pinv_steps: Iterations at most, of the inverse and of the power iteration.
        rcond: Eigenvalues below rcond times the largest are truncated.
        damping: Multiple of the mean eigenvalue that is added.
        ema_beta: Decay of the mean of second moments over steps; 0 takes that of this step alone.
        disable_preconditioning: Whether to leave the inverse out.
        scalar: Whether to divide by the largest eigenvalue instead.
        update_norm: Whether an update is scaled to a root mean square of 0.2.
        update_opnorm: Whether an update is divided by its largest singular value.
        xtx_subsample: Fraction of the rows of inputs to gather; None gathers all.
        mb_subsampling: Whether whole micro-batches are left out for that, as far as there are enough.
        row_sampling: Which rows of a micro-batch: `first` or `systematic`.
        betas: Of Adam beside it.
        eps: Of Adam.

    Raises:
        ValueError: If a setting is out of its range.
    """

    micro_batch, micro_batches = 0, 1
    """Number of the micro-batch in its optimizer step, from 0, and how many there are."""

    def __init__(
        self,
        named_parameters: Sequence[NamedParameter],
        lr: float = 3e-4,
        dap_beta1: float = 0.95,
        dap_beta2: float = 0.999,
        momentum: float = 0.0,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        dap_eps: float = 1e-8,
        use_ns_pinv: bool = True,
        accelerated: bool | float = 1e-3,
        ns_pinv_steps: int = 50,
        rcond: float = 1e-3,
        damping: float = 0.0,
        ema_beta: float = 0.0,
        disable_preconditioning: bool = False,
        scalar: bool = False,
        update_norm: bool = False,
        update_opnorm: bool = False,
        xtx_subsample: float | None = None,
        mb_subsampling: bool = False,
        row_sampling: str = "first",
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
    ) -> None:
        if not isinstance(accelerated, bool | int | float):
            raise ValueError(f"accelerated must be true, false or a number, but is the text {accelerated!r}")
        if xtx_subsample is not None and not 0 < xtx_subsample <= 1:
            raise ValueError(f"xtx_subsample must be in (0, 1], but is {xtx_subsample}")
        if row_sampling not in ("first", "systematic"):
            raise ValueError(f"row_sampling must be first or systematic, but is {row_sampling!r}")
        settings: Group = {"lr": lr, "dap_beta1": dap_beta1, "dap_beta2": dap_beta2, "momentum": momentum, "eps": eps}
        settings |= {"nesterov": nesterov, "weight_decay": weight_decay, "dap_eps": dap_eps, "rcond": rcond}
        settings |= {"use_ns_pinv": use_ns_pinv, "accelerated": accelerated, "ns_pinv_steps": ns_pinv_steps}
        settings |= {"damping": damping, "ema_beta": ema_beta, "scalar": scalar, "betas": betas}
        settings |= {"disable_preconditioning": disable_preconditioning, "update_norm": update_norm}
        settings |= {"update_opnorm": update_opnorm, "xtx_subsample": xtx_subsample}
        settings |= {"mb_subsampling": mb_subsampling, "row_sampling": row_sampling}
        super().__init__(matrix_groups(named_parameters, lr, weight_decay, _is_linear), settings)
        linear = {id(item.parameter): item for item in named_parameters if _is_linear(item)}
        self._transposed = {key for key, item in linear.items() if isinstance(item.module, Conv1D)}
        self._inputs = {key: _Inputs(item.module, self) for key, item in linear.items()}

    def begin_micro_batch(self, number: int, count: int) -> None:
        """Takes note of where in the step the next inputs are; see `protocols.SeesMicroBatches`."""
        self.micro_batch, self.micro_batches = number, count

    def treatment(self, group: Group) -> str:
        """Returns what the parameters of a group go with, in words."""
        return "preconditioned" if group["is_matrix"] else "adam"

    def sampling(self) -> tuple[int, float | None]:
        """Returns every how many micro-batches inputs are gathered, and the fraction of their rows; None is all."""
        group = self.param_groups[0]
        if (rate := group["xtx_subsample"]) is None:
            return 1, None
        return micro_batch_stride(rate, self.micro_batches) if group["mb_subsampling"] else (1, rate)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step.

        Raises:
            RuntimeError: If a pseudo-inverse has values that are not finite.
        """
        for group in self.param_groups:
            for parameter, gradient in self.trained(group):
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                if not group["is_matrix"]:
                    update = adam_step(state, gradient, group["betas"], group["eps"], state["step"])
                elif id(parameter) in self._transposed:
                    update = self._update(group, parameter, gradient.mT).mT
                else:
                    update = self._update(group, parameter, gradient)
                subtract(parameter, group["lr"] * update, 1 - group["lr"] * group["weight_decay"])

    def _update(self, group: Group, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Returns the update of a weight per unit of lr, (out, in), from its gradient of that shape."""
        state = self.state[parameter]
        second = self._second_moment(group, parameter, gradient)
        update = _numerator(state, group, gradient)
        if second is not None and not group["disable_preconditioning"]:
            update = _preconditioned(update, second.to(update.dtype), group)
        if beta2 := group["dap_beta2"]:
            if "square" not in state:
                state["square"] = torch.zeros_like(update)
            square = state["square"].mul_(beta2).addcmul_(update, update, value=1 - beta2)
            update = update / (square.sqrt() / (1 - beta2 ** state["step"]) ** 0.5 + group["dap_eps"])
        if group["update_opnorm"]:
            return update.div(torch.linalg.matrix_norm(update, 2).clamp_min(1e-12))
        if group["update_norm"]:
            return update * (0.2 / update.square().mean().sqrt().clamp_min(1e-12))
        return update

    def _second_moment(self, group: Group, parameter: Tensor, gradient: Tensor) -> Tensor | None:
        """Returns the mean of x x^T over rows of inputs, (in, in); None where none was ever gathered."""
        total, rows = self._inputs[id(parameter)].take(gradient.shape[1], gradient)
        state, beta = self.state[parameter], group["ema_beta"]
        if rows == 0:
            kept: Tensor | None = state.get("second_moment")
            return kept
        mean = total / rows
        if beta:
            mean = state["second_moment"].mul_(beta).add_(mean, alpha=1 - beta) if "second_moment" in state else mean
            state["second_moment"] = mean
        return mean


def _is_linear(item: NamedParameter) -> bool:
    return item.role is Role.MATRIX and isinstance(item.module, nn.Linear | Conv1D)


def _numerator(state: dict[str, Any], group: Group, gradient: Tensor) -> Tensor:
    """Returns the momentum of a gradient: NAdam's with constant beta1, Adam's, or that of a sum."""
    if not (beta := group["dap_beta1"]):
        return summed_momentum(state, gradient, group["momentum"], group["nesterov"])
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    buffer = state["momentum_buffer"].lerp_(gradient, 1 - beta)
    t = state["step"]
    if not group["nesterov"]:
        mean: Tensor = buffer / (1 - beta**t)
        return mean
    ahead: Tensor = beta * buffer / (1 - beta ** (t + 1)) + (1 - beta) * gradient / (1 - beta**t)
    return ahead


def _preconditioned(update: Tensor, second: Tensor, group: Group) -> Tensor:
    """Returns an update of (out, in) times the pseudo-inverse of a second moment of (in, in)."""
    if group["damping"]:
        size = len(second)
        second = second + group["damping"] * second.trace() / size * torch.eye(
            size, dtype=second.dtype, device=second.device
        )
    steps, accelerated = group["ns_pinv_steps"], group["accelerated"]
    largest = largest_eigenvalue(second, steps)
    if largest == 0:
        return update
    if group["scalar"]:
        return update / largest
    low = group["rcond"] * largest
    if not group["use_ns_pinv"]:
        inverse = torch.linalg.pinv(second, rtol=group["rcond"], hermitian=True)
    elif accelerated is False:
        inverse, _ = newton_schulz_inverse(second, low, steps)
    else:
        add_eps = 0.0 if accelerated is True else float(accelerated)
        # The largest eigenvalue with add_eps on it must stay below the bound, or the iteration diverges.
        high = torch.where(add_eps <= 0.1 * largest, 1.2 * largest, 1.2 * largest + add_eps)
        inverse, _ = accelerated_inverse(second, low, high, steps, add_eps)
    if not inverse.isfinite().all():
        raise RuntimeError(f"the pseudo-inverse of a second moment of {len(second)} inputs is not finite")
    found: Tensor = update @ inverse
    return found
