"""The type of every key of the optimizers of other packages; see `gpt_opt.config.schema`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gpt_opt.config.schema.made import option
from gpt_opt.config.schema.optimizers import OptimizerParams, cautious


@dataclass
class SOAPParams(OptimizerParams):
    """Keys of SOAP."""

    betas: list[float]
    shampoo_beta: float | None
    eps: float
    weight_decay: float
    precondition_frequency: int
    max_precondition_dim: int
    merge_dims: bool
    precondition_1d: bool
    normalize_gradient: bool


class UpdateScale(StrEnum):
    """What the norm of an update of NorMuon is."""

    preserve_norm = "preserve_norm"
    match_rms = "match_rms"


@dataclass
class BesideMuonParams(OptimizerParams):
    """Keys of what runs beside Muon in NorMuon and AdaMuon, and of both."""

    weight_decay: float
    ns_steps: int
    use_adjusted_lr: bool
    eps: float
    adamw_lr: float
    adamw_betas: list[float]
    adamw_wd: float


@dataclass
class NorMuonParams(BesideMuonParams):
    """Keys of NorMuon."""

    momentum: float
    beta2: float
    nesterov: bool
    update_scale: UpdateScale
    adamw_eps: float


@dataclass
class AdaMuonParams(BesideMuonParams):
    """Keys of AdaMuon."""

    betas: list[float]


class AdjustLr(StrEnum):
    """How the learning rate of torch.optim.Muon depends on the shape of a matrix."""

    original = "original"
    match_rms_adamw = "match_rms_adamw"


@dataclass
class MuonTorchParams(OptimizerParams):
    """Keys of torch.optim.Muon, and of AdamW beside it."""

    weight_decay: float
    momentum: float
    nesterov: bool
    ns_steps: int
    eps: float
    adjust_lr_fn: AdjustLr
    adamw_lr: float
    adamw_betas: list[float]
    adamw_eps: float
    adamw_weight_decay: float


@dataclass
class AdEMAMixParams(OptimizerParams):
    """Keys of AdEMAMix."""

    betas: list[float]
    alpha: float
    t_alpha_beta3: float | None
    eps: float
    weight_decay: float
    weight_decouple: bool


@dataclass
class ScheduleFreeAdamWParams(OptimizerParams):
    """Keys of schedule-free AdamW."""

    betas: list[float]
    eps: float
    weight_decay: float
    r: float
    weight_lr_power: float


@dataclass
class LionParams(OptimizerParams):
    """Keys of Lion."""

    betas: list[float]
    weight_decay: float


class MarsType(StrEnum):
    """What MARS makes of its corrected gradient."""

    adamw = "adamw"
    lion = "lion"
    shampoo = "shampoo"


@dataclass
class MARSParams(OptimizerParams):
    """Keys of MARS."""

    betas: list[float]
    gamma: float
    mars_type: MarsType
    eps: float
    weight_decay: float
    optimize_1d: bool
    lr_1d: float
    betas_1d: list[float]
    weight_decay_1d: float


@dataclass
class ADOPTParams(OptimizerParams):
    """Keys of ADOPT."""

    betas: list[float]
    eps: float
    weight_decay: float
    weight_decouple: bool


@dataclass
class ProdigyParams(OptimizerParams):
    """Keys of Prodigy."""

    betas: list[float]
    beta3: float | None
    eps: float
    weight_decay: float
    use_bias_correction: bool
    safeguard_warmup: bool
    d0: float
    d_coef: float


class DiagonalFactors(StrEnum):
    """Which factors of PSGD Kron are diagonal to save memory."""

    one_diag = "one_diag"
    smart_one_diag = "smart_one_diag"
    all_diag = "all_diag"


@dataclass
class KronParams(OptimizerParams):
    """Keys of PSGD Kron."""

    momentum: float
    weight_decay: float
    pre_conditioner_update_probability: float | None
    max_size_triangular: int
    min_ndim_triangular: int
    memory_save_mode: DiagonalFactors | None
    momentum_into_precondition_update: bool
    balance_prob: float


_PARAMS: dict[str, type[OptimizerParams]] = {
    "soap": cautious(SOAPParams),
    "normuon": cautious(NorMuonParams),
    "adamuon": cautious(AdaMuonParams),
    "muon-torch": cautious(MuonTorchParams),
    "ademamix": cautious(AdEMAMixParams),
    "schedule-free-adamw": ScheduleFreeAdamWParams,
    "lion": cautious(LionParams),
    "mars": MARSParams,
    "adopt": cautious(ADOPTParams),
    "prodigy": ProdigyParams,
    "psgd-kron": KronParams,
}

PACKAGE_SCHEMAS: dict[str, type[Any]] = {
    f"optimizer/{name}": option("optimizer_params", params) for name, params in _PARAMS.items()
}
"""Schema of each option, by its path below the group `schema`."""
