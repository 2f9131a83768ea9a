"""The type of every key of the `optimizer` group; see `gpt_opt.config.schema`.

Those of optimizers of other packages are in `gpt_opt.config.schema.optimizers_packages`; `OptimizerParams` is the base
of both, and `option` makes an option of the keys.
"""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Any


@dataclass
class OptimizerParams:
    """Keys of every optimizer, and of its schedule."""

    name: str
    _target_: str
    lr: float
    lr_schedule: str
    warm_up_fraction: float | None
    decay_fraction: float | None


@dataclass
class AdamParams(OptimizerParams):
    """Keys of Adam and its relatives in torch.optim."""

    betas: list[float]
    eps: float
    weight_decay: float


@dataclass
class RMSpropParams(OptimizerParams):
    """Keys of RMSprop."""

    alpha: float
    eps: float
    weight_decay: float


def option(params: type[OptimizerParams]) -> type:
    """Returns the type of an option of the group `optimizer` from that of its `optimizer_params`."""
    return make_dataclass(params.__name__.removesuffix("Params"), [("optimizer_params", params)])


OPTIMIZER_SCHEMAS: dict[str, type[Any]] = {
    f"optimizer/{name}": option(params) for name, params in {"adamw": AdamParams, "rmsprop": RMSpropParams}.items()
}
"""Schema of each option, by its path below the group `schema`."""
