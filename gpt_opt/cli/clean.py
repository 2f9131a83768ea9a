"""The verb `clean`."""

from __future__ import annotations

import sys

import click

from gpt_opt.cli.arguments import SWEEP, SWEEPS, agrees, at_least
from gpt_opt.errors import GptOptError, counted


@click.command()
@SWEEP
@click.option("--keep-best", type=int, required=True, callback=at_least(0), help="Runs of each stage to keep.")
@click.option("--metric", help="What is best (default: the sweep's metric, else accuracy or loss).")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(sweep: str, keep_best: int, metric: str | None, yes: bool) -> None:
    """Removes checkpoints of complete runs, never results.

    Those of the best runs stay, and of runs that work, are to go on or that others start from.
    """
    from gpt_opt.cli.views import clean as views
    from gpt_opt.cli.views.parts import size
    from gpt_opt.dispatch.clean import inspect, metrics_of, remove
    from gpt_opt.records.sweep_dir import find
    from gpt_opt.table import show, terminal_width

    target = find(sweep, SWEEPS)
    by = metrics_of(target, metric)
    found = inspect(target, keep_best, by)
    show(views.as_text(found, target.runs, by, terminal_width(sys.stdout)), sys.stdout)
    chosen = [item for item in found if not item.kept]
    if not chosen:
        print(f"nothing to remove of {target.label}")
        return
    asked = f"{counted(len(chosen), 'run')} of {target.label}"
    total = size(sum(item.size for item in chosen))
    if not yes and not agrees("clean", f"remove the checkpoints of {asked}, {total}? They can only be trained again."):
        raise GptOptError("nothing was removed")
    gone, left = remove(target, chosen, keep_best, by)
    removed = f"{size(sum(item.size for item in gone))} of {counted(len(gone), 'run')}"
    print(f"removed {removed}; results and logs are as they were")
    if left:
        raise GptOptError("not removed:\n  " + "\n  ".join(left))
