"""The verb `doctor`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from gpt_opt.cli.arguments import JSON
from gpt_opt.errors import GptOptError


@click.command()
@JSON
@click.argument("overrides", nargs=-1, help="What the config of the application does not compose without: model=tiny.")
def doctor(as_json: bool, overrides: tuple[str, ...]) -> None:
    """Says what works here: Slurm, GPUs, gptopt.toml, the rest."""
    from gpt_opt.cli.views import doctor as views
    from gpt_opt.dispatch.doctor import all_well, checks
    from gpt_opt.dispatch.doctor_app import app_checks
    from gpt_opt.table import show

    found = [*checks(), *app_checks(Path.cwd(), overrides)]
    if as_json:
        print(json.dumps(views.as_record(found), indent=2))
    else:
        show(views.as_text(found), sys.stdout)
    if not all_well(found):
        raise GptOptError("something that is needed does not work here; see above")
