"""Cautious weight decay, for any optimizer with decoupled decay."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from gpt_opt.errors import ConfigError, Problem
from gpt_opt.training.optimizers.base import full_precision
from gpt_opt.training.optimizers.routing import Group
from gpt_opt.training.optimizers.steps import around_step

_KEY = "optimizer.optimizer_params.cautious_weight_decay"


def decay_cautiously(optimizer: Optimizer) -> None:
    """Makes an optimizer decay a weight only where its update has the same sign (Chen et al. 2025, arXiv 2510.12402).

    x <- x - lr (u + wd [u x >= 0] x), with u the update per unit of lr: what brings a weight nearer to 0 helps the
    update there, and never works against it. The optimizer makes its step without decay, whose difference says u; so
    the weights are held twice while a step lasts.

    Args:
        optimizer: Its decay is decoupled, lr wd x, with `lr` and `weight_decay` of the groups.

    Raises:
        ConfigError: If it has another decay, or none.
    """
    for group in optimizer.param_groups:
        if "weight_decay" not in group or not _is_decoupled(group, optimizer):
            kind = type(optimizer).__name__
            problem = f"needs decoupled decay, lr * weight_decay, in each group of the optimizer, but {kind} has none"
            raise ConfigError([Problem(_KEY, problem, "set it to false")])
    before_step: list[tuple[Group, float, list[Tensor]]] = []

    @torch.no_grad()
    def before() -> None:
        for group in optimizer.param_groups:
            before_step.append((group, group["weight_decay"], [weight.clone() for weight in _decaying(group)]))
            group["weight_decay"] = 0.0

    @torch.no_grad()
    def after() -> None:
        for group, decay, old in before_step:
            group["weight_decay"] = decay
            for weight, start in zip(_decaying(group), old, strict=True):
                same = torch.sign(start - weight) * torch.sign(start) >= 0
                weight.copy_(full_precision(weight) - group["lr"] * decay * (full_precision(start) * same))
        before_step.clear()

    around_step(optimizer, before, after)


def _decaying(group: Group) -> list[Tensor]:
    return [weight for weight in group["params"] if weight.grad is not None]


def _is_decoupled(group: Group, optimizer: Optimizer) -> bool:
    if isinstance(optimizer, (torch.optim.SGD, torch.optim.RMSprop)):
        return False
    return bool(group.get("decoupled_weight_decay", True) and group.get("weight_decouple", True))
