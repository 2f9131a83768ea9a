"""The one entry point of every run: Hydra composes the config, gpt_opt executes it.

python run_hydra.py loss.beta=0.1
python run_hydra.py -m loss.beta=0.05,0.1,0.3
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from gpt_opt.config.schema import register
from gpt_opt.plan.check import check_command_line
from gpt_opt.run.app import exit_code, task
from gpt_opt.run.directory import register_resolvers

CONFIG_DIR = Path(__file__).resolve().parent / "hydra_conf"

register()
register_resolvers()


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def main(config: DictConfig) -> None:
    """Runs one composed config."""
    task(config)


def checked_main() -> None:
    """Checks every point of the command line, then lets Hydra run them."""
    check_command_line(CONFIG_DIR, sys.argv[1:])
    main()


if __name__ == "__main__":
    sys.exit(exit_code(checked_main))
