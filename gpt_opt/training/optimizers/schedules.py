"""Learning rate schedules: the factor on the peak rate at each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable


def _constant(step: int, first: int, total: int) -> float:
    return 1.0


def _warm_up_constant(step: int, first: int, total: int) -> float:
    """Linear warm-up of the DPO reference (Mitchell): never 0, full rate from step `first` on."""
    return min(1.0, (step + 1) / (first + 1))


def _warm_up_cosine(step: int, first: int, total: int) -> float:
    """Linear warm-up from 0, then half a cosine to 0 (get_cosine_schedule_with_warmup of transformers)."""
    if step < first:
        return step / max(1, first)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, total - first))))


def _warm_up_linear(step: int, first: int, total: int) -> float:
    """Linear warm-up from 0, then linear to 0 (get_linear_schedule_with_warmup of transformers)."""
    if step < first:
        return step / max(1, first)
    return max(0.0, (total - step) / max(1, total - first))


def _constant_linear(step: int, first: int, total: int) -> float:
    """Full rate for `first` steps, then linear to a tenth; no warm-up."""
    if step < first:
        return 1.0
    return max(0.1, 1 - (step - first) / max(1, total - first))


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": _constant,
    "warm-up-constant": _warm_up_constant,
    "warm-up-cosine": _warm_up_cosine,
    "warm-up-linear": _warm_up_linear,
    "constant-linear": _constant_linear,
}


def phase_steps(total_steps: int, warm_up_fraction: float | None, warmup_steps: int | None) -> int:
    """Returns the length of a schedule's first phase in optimizer steps; a number of steps replaces a fraction."""
    return warmup_steps if warmup_steps is not None else int((warm_up_fraction or 0.0) * total_steps)


def lr_factor(schedule: str, step: int, first: int, total: int) -> float:
    """Returns the factor on the peak learning rate at optimizer step `step`.

    Args:
        schedule: A key of `SCHEDULES`.
        step: Optimizer steps done so far, from 0.
        first: Length of the first phase (warm-up, or the constant part of constant-linear), steps.
        total: Optimizer steps of the whole run.
    """
    return SCHEDULES[schedule](step, first, total)
