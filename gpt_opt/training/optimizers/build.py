"""From `optimizer.optimizer_params` to an optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch.nn import Parameter
from torch.optim import Optimizer

from gpt_opt.errors import ConfigError, Problem
from gpt_opt.training.instantiate import call_target

_NOT_ARGUMENTS = frozenset({"name", "lr_schedule", "warm_up_fraction"})


def build_optimizer(params: Mapping[str, Any], parameters: Iterable[Parameter]) -> Optimizer:
    """Builds the optimizer that `_target_` names, over one group of all trainable parameters.

    Args:
        params: `optimizer.optimizer_params` as plain containers; keys of the schedule are left out.
        parameters: Parameters of the policy.

    Raises:
        ConfigError: If the optimizer refuses its settings.
    """
    arguments = {key: value for key, value in params.items() if key not in _NOT_ARGUMENTS}
    factory = call_target({**arguments, "_partial_": True})
    try:
        return cast("Optimizer", factory([item for item in parameters if item.requires_grad]))
    except (ValueError, TypeError, IndexError) as error:
        problem = f"{params['_target_']} refuses these settings: {error}"
        raise ConfigError([Problem("optimizer.optimizer_params", problem)]) from error
