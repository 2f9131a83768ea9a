"""From a sweep file to its points: params/*.json -> Grid -> ordered override lists.

Input: a JSON file in the format of grid.py. Output: `Point`s, each an ordered tuple of Hydra keys and JSON values, and
override strings made of them. Next stage: gpt_opt.plan, which composes and checks every point. Nothing here knows
Hydra, the configs or torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This package, which is also the function `gpt_opt.sweep(FILE)` of notebooks."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Returns `gpt_opt.sweep_api.sweep(...)`."""
        return import_module("gpt_opt.sweep_api").sweep(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
