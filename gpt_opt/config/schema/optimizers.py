"""The type of every key of the `optimizer` group; see `gpt_opt.config.schema`.

Those of optimizers of other packages are in `gpt_opt.config.schema.optimizers_packages`; `OptimizerParams` is the base
of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gpt_opt.config.schema.made import Named, made, option


@dataclass
class OptimizerParams(Named):
    """Keys of every optimizer, and of its schedule."""

    lr: float
    lr_schedule: str
    warm_up_fraction: float | None
    decay_fraction: float | None


@dataclass
class AdamParams(OptimizerParams):
    """Keys of AdamW and Adam."""

    betas: list[float]
    eps: float
    weight_decay: float


@dataclass
class NAdamParams(AdamParams):
    """Keys of Adam with Nesterov momentum."""

    momentum_decay: float
    decoupled_weight_decay: bool


@dataclass
class RMSpropParams(OptimizerParams):
    """Keys of RMSprop."""

    alpha: float
    eps: float
    weight_decay: float


@dataclass
class SGDParams(OptimizerParams):
    """Keys of stochastic gradient descent."""

    momentum: float
    nesterov: bool
    weight_decay: float


@dataclass
class SignGDParams(SGDParams):
    """Keys of sign descent."""

    lmo: bool


@dataclass
class MomoParams(OptimizerParams):
    """Keys of MoMo."""

    beta: float
    lb: float
    bias_correction: bool
    use_fstar: bool
    weight_decay: float


@dataclass
class MomoAdamParams(AdamParams):
    """Keys of MoMo-Adam."""

    lb: float
    divide: bool
    use_fstar: bool


class PolarMethod(StrEnum):
    """Way to the orthogonal factor of a matrix."""

    jordan = "jordan"
    polar_express = "polar_express"
    polar_express_deflated = "polar_express_deflated"
    svd = "svd"


@dataclass
class ScionParams(OptimizerParams):
    """Keys of Scion, which uses the sign beside matrices."""

    muon_lr: float | None
    muon_lr_ratio: float | None
    momentum: float
    polar_method: PolarMethod
    ns_steps: int
    weight_decay: float


@dataclass
class MuonParams(ScionParams):
    """Keys of Muon, which uses Adam beside matrices."""

    betas: list[float]
    eps: float


@dataclass
class MuonMomoParams(ScionParams):
    """Keys of Scion with truncated steps."""

    fstar: float | None


@dataclass
class MuonMaxMomoParams(MuonParams):
    """Keys of MuonMax with truncated steps."""

    fstar: float | None


class RowSampling(StrEnum):
    """Which rows of a micro-batch DAP reads."""

    first = "first"
    systematic = "systematic"


@dataclass
class DAPParams(OptimizerParams):
    """Keys of DAP."""

    dap_beta1: float
    dap_beta2: float
    dap_eps: float
    momentum: float
    nesterov: bool
    weight_decay: float
    use_ns_pinv: bool
    accelerated: Any  # bool | float: OmegaConf cannot merge a union that has no default
    ns_pinv_steps: int
    rcond: float
    damping: float
    ema_beta: float
    disable_preconditioning: bool
    scalar: bool
    update_norm: bool
    update_opnorm: bool
    xtx_subsample: float | None
    mb_subsampling: bool
    row_sampling: RowSampling
    betas: list[float]
    eps: float


def cautious(params: type[OptimizerParams]) -> type[OptimizerParams]:
    """Returns the type with the key of cautious weight decay, for an optimizer with decoupled decay."""
    return made(f"Cautious{params.__name__}", [("cautious_weight_decay", bool)], __name__, params)


_PARAMS: dict[str, type[OptimizerParams]] = {
    "adam": AdamParams,
    "adamw": cautious(AdamParams),
    "nadam": cautious(NAdamParams),
    "rmsprop": RMSpropParams,
    "sgd": SGDParams,
    "sign_gd": cautious(SignGDParams),
    "momo": MomoParams,
    "momo_adam": MomoAdamParams,
    "muon": cautious(MuonParams),
    "scion": cautious(ScionParams),
    "muon_momo": MuonMomoParams,
    "muonmax_momo": MuonMaxMomoParams,
    "dap": cautious(DAPParams),
}

OPTIMIZER_SCHEMAS: dict[str, type[Any]] = {
    f"optimizer/{name}": option("optimizer_params", params) for name, params in _PARAMS.items()
}
"""Schema of each kind of option, by its path below the group `schema`; options that differ in defaults share one."""
