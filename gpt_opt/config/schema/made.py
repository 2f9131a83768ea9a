"""What the types of options have in common, and those that differ from another in a name and a key alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass, make_dataclass
from typing import Any


@dataclass
class Named:
    """Keys of everything that a `_target_` makes: what it is called, and what makes it."""

    name: str
    _target_: str


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
