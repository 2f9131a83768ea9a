"""The verb `doctor`."""

from __future__ import annotations

import json
import sys

import click

from gpt_opt.cli.arguments import JSON
from gpt_opt.errors import GptOptError


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Says what of Slurm, GPUs and the rest works here."""
    from gpt_opt.cli.views import doctor as views
    from gpt_opt.dispatch.doctor import all_well, checks
    from gpt_opt.table import show

    found = checks()
    if as_json:
        print(json.dumps(views.as_record(found), indent=2))
    else:
        show(views.as_text(found), sys.stdout)
    if not all_well(found):
        raise GptOptError("something that is needed does not work here; see above")
