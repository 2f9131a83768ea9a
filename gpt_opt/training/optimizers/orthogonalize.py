"""The orthogonal factor U V^T of matrices with the singular value decomposition U S V^T, by iterations of products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gpt_opt.training.optimizers.base import full_precision

_JORDAN = (3.4445, -4.7750, 2.0315)

_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
_SAFETY = 1.01


def _iterate(matrices: Tensor, coefficients: Sequence[tuple[float, float, float]], factor: float = 1.0) -> Tensor:
    """Returns matrices of (n, rows, columns), rows <= columns, after steps X <- (a + b X X^T + c (X X^T)^2) X."""
    norm = torch.linalg.matrix_norm(full_precision(matrices), keepdim=True)
    # A matrix of zeros stays one.
    x: Tensor = matrices / (factor * norm).clamp_min(torch.finfo(norm.dtype).tiny).to(matrices.dtype)
    for a, b, c in coefficients:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _jordan(matrices: Tensor, steps: int) -> Tensor:
    return _iterate(matrices, [_JORDAN] * steps)


def _polar_express(matrices: Tensor, steps: int, deflation: float = 1.0) -> Tensor:
    table = [*_POLAR_EXPRESS[:steps], *[_POLAR_EXPRESS[-1]] * (steps - len(_POLAR_EXPRESS))]
    scales = [1.0 if row is _POLAR_EXPRESS[-1] else _SAFETY for row in table]
    rows = [
        (a / s / deflation, b / s**3 / deflation, c / s**5 / deflation)
        for (a, b, c), s in zip(table, scales, strict=True)
    ]
    return _iterate(matrices, rows, _SAFETY)


def _polar_express_deflated(matrices: Tensor, steps: int) -> Tensor:
    return _polar_express(matrices, steps, _SAFETY)


def _svd(matrices: Tensor, steps: int) -> Tensor:
    left, _, right = torch.linalg.svd(full_precision(matrices), full_matrices=False)
    found: Tensor = (left @ right).to(matrices.dtype)
    return found


METHODS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "jordan": _jordan,
    "polar_express": _polar_express,
    "polar_express_deflated": _polar_express_deflated,
    "svd": _svd,
}
"""Ways to the orthogonal factor.

jordan: Newton-Schulz with a quintic polynomial (Jordan 2024, the blog on Muon); singular values end in [0.7, 1.2].
polar_express: Amsel, Persson, Musco, Gower 2025, arXiv 2505.16932, Algorithm 1 with its table for l = 1e-3.
polar_express_deflated: the same with every coefficient divided by 1.01; it goes to 0.9901 U V^T, and the results that
    Crawshaw et al. 2025 (arXiv 2510.09827) report of muon and scion are with it.
svd: exact.
"""


def orthogonalize(matrices: Tensor, method: str = "polar_express", steps: int = 5) -> Tensor:
    """Returns the orthogonal factor of each of several matrices.

    On a GPU the iterations run in bfloat16, as they were made for; svd, and every other device, keep the type.

    Args:
        matrices: (..., rows, columns), any float type.
        method: A key of `METHODS`.
        steps: Iterations; svd has none.

    Returns:
        The same shape and type.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    if matrices.is_cuda and method != "svd":
        wide = wide.bfloat16()
    found = METHODS[method](wide.reshape(-1, *wide.shape[-2:]), steps).to(matrices.dtype).reshape(wide.shape)
    return found.mT if tall else found


def orthogonalize_all(matrices: Sequence[Tensor], method: str = "polar_express", steps: int = 5) -> list[Tensor]:
    """Returns the orthogonal factors of several matrices, those of equal shapes in one batch.

    Each keeps its shape and type.

    Args:
        matrices: Each (..., rows, columns), any float type: the last two are one matrix, such as that of each expert.
        method: A key of `METHODS`.
        steps: Iterations.
    """
    found: list[Tensor] = [*matrices]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        groups.setdefault(tuple(matrix.shape), []).append(index)
    for indices in groups.values():
        whole = orthogonalize(torch.stack([matrices[index] for index in indices]), method, steps)
        for index, one in zip(indices, whole.unbind(), strict=True):
            found[index] = one
    return found
