"""Non-Euclidean gradient descent (Crawshaw et al. 2025, arXiv 2510.09827): muon, scion, muon-momo, muonmax-momo.

A step descends in a norm of all parameters, put together of a norm for each matrix (spectral) and one for each other
parameter. Momentum is a mean that starts at the first gradient. The momo variants shorten a step whose model of the
loss would go below `fstar`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt_opt.training.optimizers.base import (
    FullPrecisionOptimizer,
    UsesBatchLoss,
    full_precision,
    inner,
    subtract,
)
from gpt_opt.training.optimizers.orthogonalize import METHODS, orthogonalize_all
from gpt_opt.training.optimizers.roles import NamedParameter
from gpt_opt.training.optimizers.routing import matrix_groups

OTHER_NORMS = ("adam_infty", "adam_2", "linfty")
PRODUCT_NORMS = ("linfty", "l2", "hybrid")


@dataclass
class _Part:
    """One parameter in a step: its momentum, the dual norm of that, shape (), and the direction of steepest descent."""

    parameter: Tensor
    momentum: Tensor
    is_matrix: bool
    dual: Tensor
    direction: Tensor


class NESGD(FullPrecisionOptimizer):
    """Steepest descent in a norm that treats matrices apart.

    Args:
        named_parameters: All trainable parameters; those of role matrix are orthogonalized, each expert's on its own.
        lr: Learning rate.
        lmo: Whether a step has the length lr (linear minimization oracle); otherwise lr times the dual norm.
        product_norm: How the norms of the parameters are put together: `linfty` their largest, `l2`, or `hybrid`: the
            largest of those of matrices, l2 with the others.
        other_norm: Norm of the parameters that are no matrices: `linfty` gives sign descent, `adam_infty` and `adam_2`
            give Adam without bias correction.
        spectral_scale: Factor on the spectral dual norm and direction.
        momentum: Decay of the mean of gradients, in [0, 1).
        betas: Decays for parameters under an adam norm, of gradient and squared gradient.
        eps: Added to the root of the mean squared gradient.
        polar_method: A key of `orthogonalize.METHODS`.
        ns_steps: Iterations of it.
        weight_decay: Decoupled decay of all parameters, per unit of lr.

    Raises:
        ValueError: If a setting is none of these.
    """

    def __init__(
        self,
        named_parameters: Sequence[NamedParameter],
        lr: float,
        lmo: bool = True,
        product_norm: str = "linfty",
        other_norm: str = "adam_infty",
        spectral_scale: float = 1.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        polar_method: str = "polar_express_deflated",
        ns_steps: int = 5,
        weight_decay: float = 0.0,
    ) -> None:
        _require("product_norm", product_norm, PRODUCT_NORMS)
        _require("other_norm", other_norm, OTHER_NORMS)
        _require("polar_method", polar_method, tuple(METHODS))
        self.batched = True
        settings = {"lr": lr, "lmo": lmo, "product_norm": product_norm, "other_norm": other_norm, "eps": eps}
        settings |= {"spectral_scale": spectral_scale, "momentum": momentum, "betas": betas}
        settings |= {"polar_method": polar_method, "ns_steps": ns_steps, "weight_decay": weight_decay}
        super().__init__(matrix_groups(named_parameters, lr, weight_decay), settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step."""
        if not self.trained():
            return
        group, parts = self.param_groups[0], [part for item in self.param_groups for part in self._parts(item)]
        dual, weights = _product(group["product_norm"], parts)
        lr = self._lr(parts, dual)
        kept = 1 - group["lr"] * group["weight_decay"]
        for part, weight in zip(parts, weights, strict=True):
            scale = lr * weight if group["lmo"] else lr * weight * dual
            subtract(part.parameter, part.direction * scale, kept)

    def _lr(self, parts: Sequence[_Part], dual: Tensor) -> Tensor | float:
        """Returns the learning rate of this step, before any parameter has changed.

        Args:
            parts: All parameters.
            dual: Dual norm of their momenta, shape ().
        """
        lr: float = self.param_groups[0]["lr"]
        return lr

    def _parts(self, group: dict[str, Any]) -> list[_Part]:
        adam = not group["is_matrix"] and group["other_norm"].startswith("adam")
        decay = group["betas"][0] if adam else group["momentum"]
        trained = self.trained(group)
        momenta = []
        for parameter, gradient in trained:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = gradient.clone()
            momenta.append(state["momentum_buffer"].lerp_(gradient, 1 - decay))
        if group["is_matrix"]:
            scale = group["spectral_scale"]
            factors = orthogonalize_all(momenta, group["polar_method"], group["ns_steps"], self.batched)
            return [
                _Part(parameter, mean, True, scale * (mean * factor).sum(), scale * factor)
                for (parameter, _), mean, factor in zip(trained, momenta, factors, strict=True)
            ]
        return [
            _Part(parameter, mean, False, *self._other(group, parameter, gradient, mean))
            for (parameter, gradient), mean in zip(trained, momenta, strict=True)
        ]

    def _other(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Returns dual norm and direction of a parameter that is no matrix."""
        if group["other_norm"] == "linfty":
            return mean.abs().sum(), mean.sign()
        state = self.state[parameter]
        if "square" not in state:
            state["square"] = gradient.square()
        state["square"].lerp_(gradient.square(), 1 - group["betas"][1])
        scaled = mean / (group["eps"] + state["square"].sqrt())
        dual = (mean * scaled).sum()
        if group["other_norm"] == "adam_infty":
            return dual, scaled
        dual = dual.sqrt()
        return dual, torch.where(dual > 0, scaled / dual, torch.zeros_like(scaled))


class TruncatedNESGD(NESGD, UsesBatchLoss):
    """`NESGD` whose steps end where the model of the loss, linear along the momentum, would go below `fstar`.

    Args:
        named_parameters: As those of `NESGD`.
        lr: Learning rate, the largest.
        fstar: Lower bound of the loss, nats; 3.2 suits GPT-2 shapes on web text.
        settings: As those of `NESGD`.

    Raises:
        ValueError: If momentum and betas[0], of which the model is made under an adam norm, differ.
    """

    def __init__(self, named_parameters: Sequence[NamedParameter], lr: float, fstar: float, **settings: Any) -> None:
        super().__init__(named_parameters, lr, **settings)
        for group in self.param_groups:
            group["fstar"] = fstar
        momentum, beta = self.param_groups[0]["momentum"], self.param_groups[0]["betas"][0]
        if self.param_groups[0]["other_norm"] != "linfty" and momentum != beta:
            raise ValueError(f"with fstar momentum and betas[0] must be equal, but are {momentum} and {beta}")

    def _height(self) -> Tensor:
        """Returns the mean of loss - <p, g>: the model of the loss where all parameters are zero, shape ()."""
        loss, trained, mu = full_precision(self.take_loss()), self.trained(), self.param_groups[0]["momentum"]
        now = loss - inner([full_precision(item) for item, _ in trained], [gradient for _, gradient in trained])
        self.shared["height"] = self.shared.get("height", now).lerp(now, 1 - mu)
        found: Tensor = self.shared["height"]
        return found

    def _lr(self, parts: Sequence[_Part], dual: Tensor) -> Tensor:
        group, height = self.param_groups[0], self._height()
        along = inner([full_precision(part.parameter) for part in parts], [part.momentum for part in parts])
        gap = (height - group["fstar"] + along).clamp_min(0)  # below fstar a step would go uphill
        most = gap / dual if group["lmo"] else gap / dual**2
        return torch.where(dual > 0, most.clamp_max(group["lr"]), torch.full_like(dual, group["lr"]))


def _product(norm: str, parts: Sequence[_Part]) -> tuple[Tensor, list[Tensor]]:
    """Returns the dual norm of all, shape (), and the weight of each direction, each shape ()."""
    duals = torch.stack([part.dual for part in parts])
    if norm == "linfty":
        return duals.sum(), [*duals.sign().unbind()]
    is_matrix = torch.tensor([part.is_matrix for part in parts], device=duals.device)
    matrices = (duals * is_matrix).sum()
    others = (duals * ~is_matrix).square().sum()
    whole = (matrices.square() + others).sqrt() if norm == "hybrid" else duals.square().sum().sqrt()
    own = torch.where(is_matrix, matrices, duals) if norm == "hybrid" else duals
    return whole, [*torch.where(whole > 0, own / whole, torch.zeros_like(own)).unbind()]


def _require(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(valid)}, but is {value!r}")


def _ratio(lr: float, muon_lr: float | None, muon_lr_ratio: float | None) -> float:
    if muon_lr is not None and muon_lr_ratio is not None:
        raise ValueError(f"muon_lr is {muon_lr} and muon_lr_ratio is {muon_lr_ratio}: give one of them")
    return muon_lr / lr if muon_lr is not None else 1.0 if muon_lr_ratio is None else muon_lr_ratio


_FSTAR = 3.2
"""Nats; of models of GPT-2's size on FineWeb. `gpt_opt.config.checks.optimizer_combinations` asks for it elsewhere."""


def _fstar(given: float | None) -> float:
    return _FSTAR if given is None else given


def muon(
    named_parameters: Sequence[NamedParameter],
    lr: float = 0.01,
    muon_lr: float | None = None,
    muon_lr_ratio: float | None = None,
    **settings: Any,
) -> NESGD:
    """Returns Muon as Crawshaw et al. have it: spectral descent of matrices, Adam without bias correction beside them.

    Args:
        named_parameters: All trainable parameters.
        lr: Learning rate of the others.
        muon_lr: That of the matrices; None leaves it to the next.
        muon_lr_ratio: That of the matrices, per unit of lr; None is 1.
        settings: As those of `NESGD`.
    """
    ratio = _ratio(lr, muon_lr, muon_lr_ratio)
    return NESGD(named_parameters, lr, spectral_scale=ratio, **settings)


def scion(
    named_parameters: Sequence[NamedParameter],
    lr: float = 0.01,
    muon_lr: float | None = None,
    muon_lr_ratio: float | None = None,
    **settings: Any,
) -> NESGD:
    """Returns Scion (Pethick et al. 2025, arXiv 2502.07529): as `muon`, with sign descent beside the matrices."""
    return muon(named_parameters, lr, muon_lr, muon_lr_ratio, other_norm="linfty", **settings)


def muon_momo(
    named_parameters: Sequence[NamedParameter],
    fstar: float | None = None,
    lr: float = 0.01,
    muon_lr: float | None = None,
    muon_lr_ratio: float | None = None,
    **settings: Any,
) -> TruncatedNESGD:
    """Returns `scion` with steps truncated where the model of the loss would go below `fstar`; None is 3.2."""
    ratio = _ratio(lr, muon_lr, muon_lr_ratio)
    return TruncatedNESGD(named_parameters, lr, _fstar(fstar), other_norm="linfty", spectral_scale=ratio, **settings)


def muonmax_momo(
    named_parameters: Sequence[NamedParameter],
    fstar: float | None = None,
    lr: float = 0.01,
    muon_lr: float | None = None,
    muon_lr_ratio: float | None = None,
    **settings: Any,
) -> TruncatedNESGD:
    """Returns MuonMax: steepest descent in the hybrid norm, Adam beside the matrices, truncated as `muon_momo`."""
    scale = _ratio(lr, muon_lr, muon_lr_ratio) ** 0.5
    norms = {"lmo": False, "product_norm": "hybrid", "other_norm": "adam_2"}
    return TruncatedNESGD(named_parameters, lr, _fstar(fstar), spectral_scale=scale, **norms, **settings)
