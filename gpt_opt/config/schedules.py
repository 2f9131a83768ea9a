"""Learning rate schedules: the factor on the peak rate at each optimizer step."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_EXPONENTIAL = re.compile(r"exponential_(\d+)_(\d*\.?\d+)")


@dataclass(frozen=True)
class Phases:
    """How the steps of a run are split, in optimizer steps.

    Attributes:
        first: Length of the first phase: warm-up, or the constant part of constant-linear.
        total: Steps of the whole run.
        decay: Length of the last phase of wsd.
    """

    first: int
    total: int
    decay: int = 0


def _constant(step: int, phases: Phases) -> float:
    return 1.0


def _warm_up_constant(step: int, phases: Phases) -> float:
    """Returns the linear warm-up of the DPO reference (Mitchell): never 0, full rate from step `first` on."""
    return min(1.0, (step + 1) / (phases.first + 1))


def _warm_up_cosine(step: int, phases: Phases) -> float:
    """Returns a linear warm-up from 0, then half a cosine to 0 (get_cosine_schedule_with_warmup of transformers)."""
    if step < phases.first:
        return step / phases.first
    done = (step - phases.first) / max(1, phases.total - phases.first)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))


def _warm_up_linear(step: int, phases: Phases) -> float:
    """Returns a linear warm-up from 0, then linear to 0 (get_linear_schedule_with_warmup of transformers)."""
    if step < phases.first:
        return step / phases.first
    return max(0.0, (phases.total - step) / max(1, phases.total - phases.first))


def _constant_linear(step: int, phases: Phases) -> float:
    """Returns the full rate for `first` steps, then linear to a tenth; no warm-up."""
    if step < phases.first:
        return 1.0
    return max(0.1, 1 - (step - phases.first) / max(1, phases.total - phases.first))


def _wsd(step: int, phases: Phases) -> float:
    """Returns linear warm-up from 0, full rate, linear to 0 (Hu et al. 2024, arXiv 2404.06395, with a linear decay)."""
    if step < phases.first:
        return step / phases.first
    return min(1.0, max(0.0, (phases.total - step) / max(1, phases.decay)))


def _linear(step: int, phases: Phases) -> float:
    """Returns 1 / (step + 1): a hyperbola, which the code of the results of section B calls linear."""
    return 1 / (step + 1)


def _sqrt(step: int, phases: Phases) -> float:
    """Returns 1 / sqrt(step + 1)."""
    return float((step + 1) ** -0.5)


SCHEDULES: dict[str, Callable[[int, Phases], float]] = {
    "constant": _constant,
    "warm-up-constant": _warm_up_constant,
    "warm-up-cosine": _warm_up_cosine,
    "warm-up-linear": _warm_up_linear,
    "constant-linear": _constant_linear,
    "wsd": _wsd,
    "linear": _linear,
    "sqrt": _sqrt,
}
"""Beside them there is exponential_S_G."""

_WSD_DECAY = 0.2
"""Fraction of all steps that wsd decays in, where none is given."""


def phases_of(params: Mapping[str, Any], warmup_steps: int | None, total_steps: int) -> Phases:
    """Returns the phases of a schedule; a number of steps replaces the fraction of the first one.

    Args:
        params: `optimizer.optimizer_params`: warm_up_fraction, and decay_fraction where it is given.
        warmup_steps: Steps of the first phase, or None.
        total_steps: Optimizer steps of the whole run.
    """
    first = warmup_steps if warmup_steps is not None else int((params["warm_up_fraction"] or 0.0) * total_steps)
    fraction = params.get("decay_fraction")
    return Phases(first, total_steps, int((_WSD_DECAY if fraction is None else fraction) * total_steps))


def exponential_of(schedule: str) -> tuple[int, float] | None:
    """Returns S and G of the schedule exponential_S_G, after every S steps times G; None of any other name."""
    match = _EXPONENTIAL.fullmatch(schedule)
    every, factor = (int(match[1]), float(match[2])) if match else (0, 0.0)
    return (every, factor) if every >= 1 and 0 < factor <= 1 else None


def lr_factor(schedule: str, step: int, phases: Phases) -> float:
    """Returns the factor on the peak learning rate at optimizer step `step`.

    Args:
        schedule: A key of `SCHEDULES`, or exponential_S_G, as exponential_60_0.5: times G after every S steps.
        step: Optimizer steps done so far, from 0.
        phases: Of the run.
    """
    if (exponential := exponential_of(schedule)) is not None:
        every, factor = exponential
        return float(factor ** (step // every))
    return SCHEDULES[schedule](step, phases)
