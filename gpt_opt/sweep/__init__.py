"""From a sweep file to its points: params/*.json -> Grid -> ordered override lists.

Input: a JSON file in the format of grid.py. Output: `Point`s, each an ordered tuple of Hydra keys and JSON values, and
override strings made of them. Next stage: gpt_opt.plan, which composes and checks every point. Nothing here knows
Hydra, the configs or torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from gpt_opt.sweep.grid import load_grid, parse_grid
from gpt_opt.sweep.json_schema import schema
from gpt_opt.sweep.model import Axis, Best, Exclude, Grid, Items, Metric, Resources, Space, Stage, Start
from gpt_opt.sweep.overrides import describe, target, to_override
from gpt_opt.sweep.points import Point, count, points

__all__ = [
    "Axis",
    "Best",
    "Exclude",
    "Grid",
    "Items",
    "Metric",
    "Point",
    "Resources",
    "Space",
    "Stage",
    "Start",
    "count",
    "describe",
    "load_grid",
    "parse_grid",
    "points",
    "schema",
    "target",
    "to_override",
]


class _Callable(ModuleType):
    """This package, which is also the function `gpt_opt.sweep(FILE)` of notebooks."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Returns `gpt_opt.sweep_api.sweep(...)`."""
        return import_module("gpt_opt.sweep_api").sweep(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
