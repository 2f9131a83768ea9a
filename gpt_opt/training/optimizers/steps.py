"""What is done around the steps of any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


def around_step(optimizer: Optimizer, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Has functions called around each step, once also where a step calls that of its base class.

    Args:
        optimizer: Any; what was registered first is called first.
        before: What to do before a step.
        after: What to do after it; not where the step raises, or float16 overflows, for which there is no step.
    """
    depth = 0

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            before()

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            after()

    optimizer.register_step_pre_hook(enter)
    optimizer.register_step_post_hook(leave)
