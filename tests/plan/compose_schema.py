"""The typed part of the config tree under tests/plan/conf, and the resolvers that it calls."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Optional, Union  # noqa: UP035 - OmegaConf reads these annotations at run time

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

CONFIG_DIR = Path(__file__).parent / "conf"
PURE = ("test_times", "test_half")


class Color(Enum):
    """An enum leaf."""

    red = 1
    blue = 2


@dataclass
class Limits:
    """Typed leaves of every kind."""

    whole: int = 10
    real: float = 0.5
    on: bool = False
    text: str = "x"
    maybe: Optional[int] = None  # noqa: UP045
    must: int = MISSING
    color: Color = Color.red
    file: Path = Path("a/b")
    either: Union[int, str] = 1  # noqa: UP007
    many: List[float] = field(default_factory=lambda: [0.9, 0.95])  # noqa: UP006
    named: Dict[str, int] = field(default_factory=lambda: {"one": 1})  # noqa: UP006
    of_seed: int = "${seed}"  # type: ignore[assignment]
    text_of_seed: str = "s${seed}"
    by_color: Dict[Color, int] = field(default_factory=lambda: {Color.red: 1})  # noqa: UP006


@dataclass(frozen=True)
class Sealed:
    """A read-only node."""

    value: int = 1


@dataclass
class Root:
    """The typed part of the root."""

    seed: int = 0
    name: Optional[str] = None  # noqa: UP045
    limits: Limits = field(default_factory=Limits)
    sealed: Sealed = field(default_factory=Sealed)
    other: Optional[Limits] = None  # noqa: UP045


def _whole_config(_root_: Any) -> int:
    return len(_root_)


def register() -> None:
    """Registers the schema and the resolvers."""
    ConfigStore.instance().store(name="root_schema", node={**_fields(Root())})
    OmegaConf.register_new_resolver("test_times", lambda a, b: a * b, replace=True)
    OmegaConf.register_new_resolver("test_half", lambda a: a // 2, replace=True)
    OmegaConf.register_new_resolver("test_cached", lambda a: a, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("test_root", _whole_config, replace=True)
    OmegaConf.register_new_resolver("test_random", random.random, replace=True)


def _fields(root: Root) -> dict[str, Any]:
    # A plain dict of typed nodes: the root itself stays open for the keys that config.yaml adds.
    typed = OmegaConf.structured(root)
    return {key: typed._get_node(key) for key in typed}
