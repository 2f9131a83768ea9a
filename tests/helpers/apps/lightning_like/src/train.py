"""A script of the shape of the templates for Lightning."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ["PROJECT_ROOT"] = str(ROOT)
sys.path.insert(0, str(ROOT))

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402
from src.tools.trainer import Trainer  # noqa: E402


@hydra.main(version_base="1.3", config_path="../configs", config_name="train.yaml")
def main(cfg: DictConfig) -> None:
    logger = hydra.utils.instantiate(cfg.logger) if cfg.get("logger") else None
    trainer = Trainer(cfg.trainer.max_steps, cfg.trainer.pause_s, cfg.callbacks.model_checkpoint.dirpath, logger)
    trainer.fit(cfg.model.start, cfg.model.lr, cfg.get("ckpt_path"))


if __name__ == "__main__":
    main()
