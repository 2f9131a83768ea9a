"""Types that differ from another in a name and a key: made of it, and not written out."""

from __future__ import annotations

import sys
from dataclasses import make_dataclass
from typing import Any


def option(key: str, params: type[Any]) -> type[Any]:
    """Returns the type of an option whose one key has a type: `AdamParams` makes `Adam`, `HfDataset` makes `Hf`."""
    name = params.__name__.removesuffix("Params").removesuffix("Dataset")
    return made(name, [(key, params)], params.__module__)


def made(name: str, fields: list[tuple[str, Any]], module: str, *bases: type[Any]) -> type[Any]:
    """Returns a dataclass that pickle finds in a module: submitit's jobs are sent all types of the config."""
    cls: type[Any] = make_dataclass(name, fields, bases=bases)
    cls.__module__ = module
    if hasattr(sys.modules[module], name):
        raise TypeError(f"{module} has a {name} already")
    setattr(sys.modules[module], name, cls)
    return cls
