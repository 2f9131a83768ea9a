"""The one entry point of every run: Hydra composes the config, gpt_opt executes it.

python run_hydra.py -m loss.beta=0.05,0.1,0.3
"""

from __future__ import annotations

import os
import sys

try:
    from functools import partial
    from pathlib import Path

    import hydra

    from gpt_opt.config.schema import VERSION_BASE
    from gpt_opt.errors import exit_code
    from gpt_opt.own_app.command_line import check_command_line, composition_problems, help_loader
    from gpt_opt.run.devices import start_processes
    from gpt_opt.run.distributed import run_ranks
    from gpt_opt.run.main import hydra_errors, require_weights, show_help, start, task
    from gpt_opt.run.planned import require_planned
    from gpt_opt.run.prepared import prepare
    from gpt_opt.run.program import Finished
except KeyboardInterrupt:  # before `exit_code` could say so
    sys.exit(130)

CONFIG_DIR = Path(__file__).resolve().parent / "hydra_conf"


def main() -> None:
    """Checks every point of the command line, then lets Hydra run them."""
    prepare()
    request = check_command_line(CONFIG_DIR, sys.argv[1:])
    explain = partial(composition_problems, CONFIG_DIR, sys.argv[1:])
    if request is None and (loader := help_loader(CONFIG_DIR, sys.argv[1:])) is not None:
        with hydra_errors(explain):
            show_help(loader, sys.argv[1:])
        return
    if request is None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints a report of its own and exits with 1
        with hydra_errors(explain):
            hydra.main(version_base=VERSION_BASE, config_path=str(CONFIG_DIR), config_name="config")(task)()
        return
    configs = [point.config for point in request.points]
    require_planned(configs)
    require_weights([(point.config, point.overrides) for point in request.points])
    start_processes(configs, sys.argv, request.multirun)
    with hydra_errors(explain):
        start(request.loader, task, request.overrides, request.multirun)


if __name__ == "__main__":
    raise Finished(exit_code(partial(run_ranks, main)))
