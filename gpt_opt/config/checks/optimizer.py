"""What must hold in the group `optimizer`: the learning rate and its schedule, and the settings of each optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.config.schedules import SCHEDULES, exponential_of
from gpt_opt.errors import Problem

_WITHOUT_PHASES = frozenset({"constant", "linear", "sqrt"})

_OPTIMIZER = "optimizer.optimizer_params"
_WARMUP = "training.training_params.warmup_steps"


def schedule_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks the learning rate, and that its schedule has what it needs and nothing else."""
    params, warmup_steps = (
        config["optimizer"]["optimizer_params"],
        config["training"]["training_params"]["warmup_steps"],
    )
    if not 0 <= params["lr"] < float("inf"):
        yield Problem(f"{_OPTIMIZER}.lr", f"must be a finite number of at least 0, but is {params['lr']}")
    name, is_exponential = params["lr_schedule"], exponential_of(params["lr_schedule"]) is not None
    if name not in SCHEDULES and not is_exponential:
        valid = f"{', '.join(SCHEDULES)} or exponential_S_G (S >= 1 steps, 0 < G <= 1, as exponential_60_0.5)"
        yield Problem(f"{_OPTIMIZER}.lr_schedule", f"must be one of {valid}, but is {name!r}")
        return
    fraction = params["warm_up_fraction"]
    if fraction is not None and not 0 <= fraction <= 1:
        yield Problem(f"{_OPTIMIZER}.warm_up_fraction", f"0 <= warm_up_fraction <= 1 must hold, but it is {fraction}")
    if name in _WITHOUT_PHASES or is_exponential:
        if warmup_steps is not None:
            problem = f"must be null with the schedule {name}, which has no first phase, but is {warmup_steps}"
            yield Problem(_WARMUP, problem, f"leave it null, or choose another {_OPTIMIZER}.lr_schedule")
    elif fraction is None and warmup_steps is None:
        problem = (
            f"the schedule {name} needs the length of its first phase, but warm_up_fraction and {_WARMUP} are both null"
        )
        yield Problem(f"{_OPTIMIZER}.warm_up_fraction", problem)
    yield from _decay_problems(params, warmup_steps)


def _decay_problems(params: Mapping[str, Any], warmup_steps: int | None) -> Iterator[Problem]:
    """Checks the decay at the end of wsd."""
    key, name, decay = f"{_OPTIMIZER}.decay_fraction", params["lr_schedule"], params.get("decay_fraction")
    if decay is None:
        return
    if name != "wsd":
        problem = f"must be null with the schedule {name}, but is {decay}: wsd alone has it"
        yield Problem(key, problem, f"leave it null, or write {_OPTIMIZER}.lr_schedule=wsd")
        return
    warm_up = 0.0 if warmup_steps is not None else params["warm_up_fraction"] or 0.0
    if not 0 < decay <= 1 - warm_up:
        limit = "1" if warmup_steps is not None else f"1 - warm_up_fraction = {1 - warm_up:g}"
        yield Problem(key, f"0 < decay_fraction <= {limit} must hold, but it is {decay}")


def moment_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks the numbers that only some optimizers have, and the weight decay."""
    params = config["optimizer"]["optimizer_params"]
    count = 3 if params["_target_"].endswith(".AdEMAMix") else 2
    for key in ("betas", "adamw_betas", "betas_1d"):
        betas, wanted = params.get(key), count if key == "betas" else 2
        if betas is not None and (len(betas) != wanted or not all(0 <= value < 1 for value in betas)):
            numbers = {2: "two", 3: "three"}[wanted]
            problem = f"must be {numbers} numbers, each at least 0 and below 1, but is {betas}"
            yield Problem(f"{_OPTIMIZER}.{key}", problem)
    for key in ("alpha", "momentum", "beta", "beta2", "dap_beta1", "dap_beta2", "ema_beta"):
        if key == "alpha" and count == 3:  # the weight of a mean
            continue
        if params.get(key) is not None and not 0 <= params[key] < 1:
            yield Problem(f"{_OPTIMIZER}.{key}", f"must be at least 0 and below 1, but is {params[key]}")
    for key in ("eps", "weight_decay", "damping", "dap_eps", "muon_lr", "muon_lr_ratio", "momentum_decay"):
        if params.get(key) is not None and not 0 <= params[key] < float("inf"):
            yield Problem(f"{_OPTIMIZER}.{key}", f"must be a finite number of at least 0, but is {params[key]}")
    for key in ("ns_steps", "ns_pinv_steps"):
        if params.get(key) is not None and params[key] < 1:
            yield Problem(f"{_OPTIMIZER}.{key}", f"must be at least 1, but is {params[key]}")
    for key in ("rcond", "xtx_subsample"):
        if params.get(key) is not None and not 0 < params[key] <= 1:
            yield Problem(f"{_OPTIMIZER}.{key}", f"must be above 0 and at most 1, but is {params[key]}")
