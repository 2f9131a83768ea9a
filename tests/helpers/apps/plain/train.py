"""Descends a parabola."""

import time

import hydra
from omegaconf import DictConfig

import gpt_opt


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    x = float(cfg.model.start)
    for step in range(1, cfg.steps + 1):
        x -= cfg.lr * 2 * x
        gpt_opt.report(step=step, loss=x * x)
        time.sleep(cfg.pause_s)
    return x * x


if __name__ == "__main__":
    main()
