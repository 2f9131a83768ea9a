"""What must hold in the group `optimizer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.errors import Problem

SCHEDULES = ("constant", "warm-up-constant", "warm-up-cosine", "warm-up-linear", "constant-linear")
"""Learning rate schedules; `gpt_opt.training.optimizers.schedules` has their formulas."""

_OPTIMIZER = "optimizer.optimizer_params"


def schedule_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks the learning rate, and that its schedule has what it needs."""
    params = config["optimizer"]["optimizer_params"]
    if not 0 <= params["lr"] < float("inf"):
        yield Problem(f"{_OPTIMIZER}.lr", f"must be a finite number of at least 0, but is {params['lr']}")
    if params["lr_schedule"] not in SCHEDULES:
        yield Problem(
            f"{_OPTIMIZER}.lr_schedule", f"must be one of {', '.join(SCHEDULES)}, but is {params['lr_schedule']!r}"
        )
    fraction = params["warm_up_fraction"]
    if fraction is not None and not 0 <= fraction <= 1:
        yield Problem(f"{_OPTIMIZER}.warm_up_fraction", f"0 <= warm_up_fraction <= 1 must hold, but it is {fraction}")
    warmup_steps = config["training"]["training_params"]["warmup_steps"]
    if params["lr_schedule"] != "constant" and fraction is None and warmup_steps is None:
        yield Problem(
            f"{_OPTIMIZER}.warm_up_fraction",
            f"the schedule {params['lr_schedule']} needs the length of its first phase, but warm_up_fraction and "
            "training.training_params.warmup_steps are both null",
        )


def moment_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks what only some optimizers have, and the weight decay."""
    params = config["optimizer"]["optimizer_params"]
    count = 3 if params["_target_"].endswith(".AdEMAMix") else 2
    for key in ("betas", "adamw_betas", "betas_1d"):
        betas, wanted = params.get(key), count if key == "betas" else 2
        if betas is not None and (len(betas) != wanted or not all(0 <= value < 1 for value in betas)):
            numbers = {2: "two", 3: "three"}[wanted]
            problem = f"must be {numbers} numbers, each at least 0 and below 1, but is {betas}"
            yield Problem(f"{_OPTIMIZER}.{key}", problem)
    alpha = params.get("alpha")
    if alpha is not None and count == 2 and not 0 <= alpha < 1:  # AdEMAMix has a weight of that name
        yield Problem(f"{_OPTIMIZER}.alpha", f"must be at least 0 and below 1, but is {alpha}")
    for key in ("eps", "weight_decay"):
        if params.get(key) is not None and not 0 <= params[key] < float("inf"):
            yield Problem(f"{_OPTIMIZER}.{key}", f"must be a finite number of at least 0, but is {params[key]}")
