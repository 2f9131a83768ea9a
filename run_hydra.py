"""The one entry point of every run: Hydra composes the config, gpt_opt executes it.

python run_hydra.py -m loss.beta=0.05,0.1,0.3
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import hydra

from gpt_opt.config.schema import register
from gpt_opt.errors import exit_code
from gpt_opt.plan.command_line import check_command_line, composition_problems
from gpt_opt.run.devices import start_processes
from gpt_opt.run.distributed import run_ranks
from gpt_opt.run.main import hydra_errors, require_weights, task
from gpt_opt.run.planned import require_planned
from gpt_opt.run.resolvers import register_resolvers

CONFIG_DIR = Path(__file__).resolve().parent / "hydra_conf"


def main() -> None:
    """Checks every point of the command line, then lets Hydra run them."""
    register()
    register_resolvers()
    points, multirun = check_command_line(CONFIG_DIR, sys.argv[1:])
    require_planned([point.config for point in points])
    require_weights([(point.config, point.overrides) for point in points])
    start_processes([point.config for point in points], sys.argv, multirun)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints a report of its own and exits with 1
    with hydra_errors(partial(composition_problems, CONFIG_DIR, sys.argv[1:])):
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")(task)()


if __name__ == "__main__":
    sys.exit(exit_code(partial(run_ranks, main)))
