"""Imports relative to itself, so that it runs as `python -m project.fit` alone."""

from hydra import main as entry
from omegaconf import DictConfig

from .steps import losses


@entry(config_path="conf", config_name="fit")
def fit(cfg: DictConfig) -> None:
    print(*losses(cfg.lr))


if __name__ == "__main__":
    fit()
