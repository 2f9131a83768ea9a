"""Has a typed config."""

import csv

import hydra
import schema
from omegaconf import DictConfig

schema.register()
CONFIG = "config"


@hydra.main(version_base="1.3", config_path="conf", config_name=CONFIG)
def main(cfg: DictConfig) -> None:
    with open("metrics.csv", "w", newline="") as stream:  # its working directory is that of the run
        rows = csv.writer(stream)
        rows.writerow(["step", "loss"])
        rows.writerows((step, cfg.optimizer.lr * cfg.hidden / step) for step in range(1, cfg.steps + 1))


if __name__ == "__main__":
    main()
