"""Pseudo-inverses of symmetric positive semi-definite matrices by iterations of products, truncated softly.

Directions whose eigenvalue is below a level are not inverted whole: the iterations stop when that level is reached.
All tensors of a call are float32, or all float64, and so are its results.
"""

from __future__ import annotations

import torch
from torch import Tensor


def largest_eigenvalue(matrix: Tensor, iterations: int = 50, tolerance: float = 1e-6) -> Tensor:
    """Returns the largest eigenvalue of a symmetric positive semi-definite matrix by power iteration, shape ().

    The start is the same in every process: the column of the largest diagonal element.

    Args:
        matrix: (d, d).
        iterations: At most so many.
        tolerance: Change of the unit vector at which to stop.
    """
    vector = matrix[:, matrix.diagonal().argmax()]
    vector = vector / vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)
    for _ in range(iterations):
        moved = matrix @ vector
        moved = moved / moved.norm().clamp_min(torch.finfo(moved.dtype).tiny)
        close = (moved - vector).norm() < tolerance
        vector = moved
        if close:
            break
    found: Tensor = (vector @ (matrix @ vector)).clamp_min(0)
    return found


def accelerated_inverse(
    matrix: Tensor, low: Tensor, high: Tensor, steps: int, add_eps: float = 0.0, tolerance: float = 1e-6
) -> tuple[Tensor, int]:
    """Returns a pseudo-inverse by scaled Newton iterations (after Pan and Schreiber 1991, SIAM J. Sci. Comput. 12).

    Args:
        matrix: (d, d), symmetric positive semi-definite.
        low: Eigenvalue at which to stop, shape (); smaller ones stay partly inverted.
        high: Above all eigenvalues with `add_eps` on them, shape ().
        steps: At most so many iterations.
        add_eps: Added to every eigenvalue; above 0 the start of positive definite matrices is taken, which needs fewer
            iterations.
        tolerance: Distance from 1 of what an eigenvalue `low` has come to, at which to stop.

    Returns:
        (d, d), and the iterations done.
    """
    one = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    scale = high + 1e-10
    scaled = matrix / scale + add_eps / scale * one
    k, e = low / scale, low / scale
    if add_eps > 0:
        start = 8 / (1 + 6 * k + k**2)
        inverse = start * ((1 + k) * one - scaled)
        r, q = (1 - k) ** 2 / (1 + 6 * k + k**2), start * ((1 + k) * e - e**2)
    else:
        start = 2 / (1 + k**2)
        inverse = start * scaled
        r, q = (1 - k**2) / (1 + k**2), start * e**2
    done = 0
    while done < steps:
        d = 2 - r**2
        inverse = 2 / d * inverse @ (2 * one - scaled @ inverse)
        r, q = r**2 / d, 2 / d * q * (2 - q)
        done += 1
        if (1 - q).abs() < tolerance:
            break
    return inverse / scale, done


def newton_schulz_inverse(matrix: Tensor, threshold: Tensor, steps: int) -> tuple[Tensor, int]:
    """Returns a pseudo-inverse of truncated rank (Soderstrom and Stewart 1974, SIAM J. Numer. Anal. 11).

    The trace of X A climbs through the integers as eigenvalues converge, the largest first; an iteration after which
    the change is within the threshold ends with the inverse before it.

    Args:
        matrix: (d, d), symmetric.
        threshold: Eigenvalues below it are left out, shape ().
        steps: At most so many iterations.

    Returns:
        (d, d), and the iterations done.
    """
    one = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    alpha = 1 / (torch.linalg.matrix_norm(matrix, 1) * torch.linalg.matrix_norm(matrix, torch.inf))
    inverse = alpha * matrix.mT
    product = inverse @ matrix
    trace, level = float(product.trace()), 1
    for number in range(steps):
        moved = (2 * one - product) @ inverse
        product = moved @ matrix
        before, trace = trace, float(product.trace())
        while before < level <= trace:
            if (moved - inverse).norm() / (2.0**number * alpha) <= threshold:
                return inverse, number + 1
            level += 1
        inverse = moved
    return inverse, steps
