"""Which parameter is in which group of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gpt_opt.training.optimizers.roles import NamedParameter, Role

Group = dict[str, Any]
"""A group of parameters: its settings, and `params`."""


def groups_by(
    named_parameters: Iterable[NamedParameter],
    lr: float,
    weight_decay: float | None,
    kind: Callable[[NamedParameter], Group] = lambda item: {},
) -> list[Group]:
    """Returns parameters in groups: those of one kind, one learning rate and one decay together; no empty group.

    Args:
        named_parameters: All trainable parameters.
        lr: Learning rate, of which a parameter has its `lr_multiplier`.
        weight_decay: Decay of those that decay; None for an optimizer that has none.
        kind: The settings by which groups differ besides.
    """
    groups: list[tuple[Group, list[Any]]] = []
    for item in named_parameters:
        settings = {**kind(item), "lr": lr * item.lr_multiplier}
        if weight_decay is not None:
            settings["weight_decay"] = weight_decay if item.decays else 0.0
        members = next((found for own, found in groups if own == settings), None)
        if members is None:
            members = []
            groups.append((settings, members))
        members.append(item.parameter)
    return [{"params": members, **settings} for settings, members in groups]


def matrix_groups(
    named_parameters: Iterable[NamedParameter],
    lr: float,
    weight_decay: float,
    is_matrix: Callable[[NamedParameter], bool] = lambda item: item.role is Role.MATRIX,
) -> list[Group]:
    """Returns the groups of `groups_by`, each with `is_matrix`, those of matrices first.

    Args:
        named_parameters: All trainable parameters.
        lr: Learning rate.
        weight_decay: Decoupled decay.
        is_matrix: Which of them are treated as matrices.
    """
    groups = groups_by(named_parameters, lr, weight_decay, lambda item: {"is_matrix": is_matrix(item)})
    return sorted(groups, key=lambda group: not group["is_matrix"])
