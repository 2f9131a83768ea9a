"""The types of the config, and a resolver that it uses."""

from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf


@dataclass
class Optimizer:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass
class Config:
    width: int = MISSING
    hidden: int = 0
    steps: int = 3
    root: str = str(Path(__file__).parent)
    optimizer: Optimizer = field(default_factory=Optimizer)


def register() -> None:
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("twice", lambda value: 2 * value, replace=True)
