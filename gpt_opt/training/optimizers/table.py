"""A table of which parameter an optimizer treats how."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from gpt_opt.training.optimizers.roles import NamedParameter

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
_HEAD = ("parameter", "count", "shape", "role", "group", "lr x", "decay")


def routing_table(parameters: Iterable[NamedParameter], optimizer: Optimizer, lr: float) -> str:
    """Returns lines with a row for each kind of parameter: layers that are alike are one row, with * for their number.

    Args:
        parameters: All trainable parameters.
        optimizer: Over them; one with `treatment(group)` and `lr_multiplier(group)` says more of its groups.
        lr: `optimizer.optimizer_params.lr`, of which the table says the multiple.
    """
    places = {id(item): index for index, group in enumerate(optimizer.param_groups) for item in group["params"]}
    rows: dict[tuple[str, ...], int] = {}
    for item in parameters:
        index = places[id(item.parameter)]
        shape = "x".join(map(str, item.parameter.shape)) or "scalar"
        row = (_LAYER.sub("*", item.name), shape, item.role.value, *_of_group(optimizer, index, lr))
        rows[row] = rows.get(row, 0) + 1
    cells = [_HEAD, *((name, str(count), *others) for (name, *others), count in rows.items())]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _of_group(optimizer: Optimizer, index: int, lr: float) -> tuple[str, str, str]:
    """Returns the last columns of a group's parameters."""
    group: dict[str, Any] = optimizer.param_groups[index]
    own = getattr(optimizer, "lr_multiplier", None)
    rate = float(group.get("initial_lr", group["lr"]))
    multiple = (own(group) if own is not None else 1.0) * (rate / lr if lr else 1.0)
    treatment = getattr(optimizer, "treatment", None)
    name = f"{index} ({treatment(group)})" if treatment is not None else str(index)
    return name, f"{multiple:g}", f"{group.get('weight_decay', 0.0):g}"
