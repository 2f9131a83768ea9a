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
    subtract_all,
)
from gpt_opt.training.optimizers.orthogonalize import METHODS, orthogonalize_all
from gpt_opt.training.optimizers.roles import NamedParameter
from gpt_opt.training.optimizers.routing import Group, matrix_groups

OTHER_NORMS = ("adam_infty", "adam_2", "linfty")
PRODUCT_NORMS = ("linfty", "l2", "hybrid")


@dataclass
class _Part:
    """Parameters of one group in a step.

    Attributes:
        group: Their settings.
        parameters: Those that have a gradient.
        momenta: Mean of the gradients of each.
        directions: Of steepest descent, of each, but for `scale`.
        scale: Of the directions.
        duals: Dual norm of each momentum, each shape (); empty where none is asked for.
    """

    group: Group
    parameters: list[Tensor]
    momenta: list[Tensor]
    directions: list[Tensor]
    scale: float
    duals: list[Tensor]


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
        settings = {"lr": lr, "lmo": lmo, "product_norm": product_norm, "other_norm": other_norm, "eps": eps}
        settings |= {"spectral_scale": spectral_scale, "momentum": momentum, "betas": betas}
        settings |= {"polar_method": polar_method, "ns_steps": ns_steps, "weight_decay": weight_decay}
        super().__init__(matrix_groups(named_parameters, lr, weight_decay), settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step."""
        parts = [part for group in self.param_groups if (part := self._part(group)).parameters]
        if not parts:
            return
        first = self.param_groups[0]
        dual, weights = _product(first["product_norm"], parts) if self._needs_duals() else (None, None)
        lr = self._lr(parts, dual)
        for index, part in enumerate(parts):
            kept = 1 - part.group["lr"] * part.group["weight_decay"]
            scales: float | list[Tensor] = lr * part.scale
            if weights is not None and dual is not None:
                length = lr if first["lmo"] else lr * dual
                scales = [length * part.scale * weight for weight in weights[index]]
            subtract_all(part.parameters, part.directions, scales, kept)

    def treatment(self, group: Group) -> str:
        """Returns what the parameters of a group go with, in words."""
        return "spectral" if group["is_matrix"] else str(group["other_norm"])

    def lr_multiplier(self, group: Group) -> float:
        """Returns what the learning rate of matrices is multiplied by."""
        scale: float = group["spectral_scale"] if group["is_matrix"] else 1.0
        return scale if group["lmo"] else scale**2

    def _needs_duals(self) -> bool:
        """Returns whether a step depends on dual norms: in the largest norm with a length of lr every weight is 1."""
        first = self.param_groups[0]
        return not first["lmo"] or first["product_norm"] != "linfty" or first["other_norm"] == "adam_2"

    def _lr(self, parts: Sequence[_Part], dual: Tensor | None) -> Any:
        """Returns the learning rate of this step, a number or shape (), before any parameter has changed.

        Args:
            parts: All parameters.
            dual: Dual norm of their momenta, shape ().
        """
        return float(self.param_groups[0]["lr"])

    def _part(self, group: Group) -> _Part:
        is_adam = not group["is_matrix"] and group["other_norm"] != "linfty"
        trained = self.trained(group)
        parameters, gradients = [item for item, _ in trained], [gradient for _, gradient in trained]
        decay = group["betas"][0] if is_adam else group["momentum"]
        momenta, scale = self._means("momentum_buffer", parameters, gradients, decay), 1.0
        if group["is_matrix"]:
            scale = float(group["spectral_scale"])
            directions = orthogonalize_all(momenta, group["polar_method"], group["ns_steps"])
            duals = [scale * (mean * factor).sum() for mean, factor in self._pairs(momenta, directions)]
        elif is_adam:
            directions, duals = self._adam(group, parameters, gradients, momenta)
        else:
            directions = [mean.sign() for mean in momenta]
            duals = [mean.abs().sum() for mean, _ in self._pairs(momenta, directions)]
        return _Part(group, parameters, momenta, directions, scale, duals)

    def _adam(
        self, group: Group, parameters: list[Tensor], gradients: list[Tensor], momenta: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns directions and dual norms of parameters under an adam norm."""
        squares = self._means("square", parameters, [item.square() for item in gradients], group["betas"][1])
        roots = [square.sqrt().add_(group["eps"]) for square in squares]
        directions = [mean / root for mean, root in zip(momenta, roots, strict=True)]
        duals = [(mean * direction).sum() for mean, direction in self._pairs(momenta, directions)]
        if group["other_norm"] == "adam_infty":
            return directions, duals
        duals = [dual.sqrt() for dual in duals]
        pairs = zip(directions, duals, strict=True)
        return [torch.where(dual > 0, item / dual, torch.zeros_like(item)) for item, dual in pairs], duals

    def _pairs(self, first: list[Tensor], second: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Returns pairs to make dual norms of; none where none is asked for."""
        return [*zip(first, second, strict=True)] if self._needs_duals() else []

    def _means(self, name: str, parameters: list[Tensor], values: list[Tensor], decay: float) -> list[Tensor]:
        """Returns means of values over the steps, which start at the first of them."""
        for parameter, value in zip(parameters, values, strict=True):
            if name not in self.state[parameter]:
                self.state[parameter][name] = value.clone()
        means = [self.state[parameter][name] for parameter in parameters]
        if means:
            torch._foreach_lerp_(means, values, 1 - decay)
        return means


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

    def _needs_duals(self) -> bool:
        return True

    def _lr(self, parts: Sequence[_Part], dual: Tensor | None) -> Tensor:
        assert dual is not None
        group, height = self.param_groups[0], self._height()
        parameters = [full_precision(item) for part in parts for item in part.parameters]
        along = inner(parameters, [mean for part in parts for mean in part.momenta])
        gap = (height - group["fstar"] + along).clamp_min(0)  # below fstar a step would go uphill
        most = gap / dual if group["lmo"] else gap / dual**2
        return torch.where(dual > 0, most.clamp_max(group["lr"]), torch.full_like(dual, group["lr"]))


def _product(norm: str, parts: Sequence[_Part]) -> tuple[Tensor, list[list[Tensor]]]:
    """Returns the dual norm of all, shape (), and the weights of the directions of each part, each shape ()."""
    duals = torch.stack([dual for part in parts for dual in part.duals])
    sizes = [len(part.parameters) for part in parts]
    is_matrix = torch.tensor([part.group["is_matrix"] for part in parts for _ in part.parameters], device=duals.device)
    matrices = (duals * is_matrix).sum()
    if norm == "linfty":
        whole, weights = duals.sum(), duals.sign()
    else:
        others = (duals * ~is_matrix).square().sum()
        whole = (matrices.square() + others).sqrt() if norm == "hybrid" else duals.square().sum().sqrt()
        own = torch.where(is_matrix, matrices, duals) if norm == "hybrid" else duals
        weights = torch.where(whole > 0, own / whole, torch.zeros_like(own))
    return whole, [[*part.unbind()] for part in weights.split(sizes)]


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
