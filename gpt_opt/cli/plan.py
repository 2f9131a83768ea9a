"""The verb `plan`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from gpt_opt.cli.arguments import BACKEND, FILE, JSON, OVERRIDES, at_least
from gpt_opt.errors import RequestError


@click.command()
@click.argument("file", type=FILE, required=False, help="The sweep file, for example params/beta_sweep.json.")
@OVERRIDES
@click.option(
    "--backend",
    type=BACKEND,
    help="Refuse what this one cannot do. Default: that of gptopt submit; but where there is no Slurm, what another "
    "backend could do is only noted.",
)
@click.option(
    "--slots",
    type=int,
    default=1,
    callback=at_least(1),
    metavar="N",
    help="Runs of one shape at a time, for the cost estimate (default: 1).",
)
@JSON
@click.option("--overrides", "lines", is_flag=True, help="Print the override strings, a run a line.")
@click.option("--explain", metavar="INDEX", help="Say why this run, an index or STAGE/INDEX, is not done already.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of sweep files, for editors.")
def plan(
    file: Path | None,
    overrides: tuple[str, ...],
    backend: str | None,
    slots: int,
    as_json: bool,
    lines: bool,
    explain: str | None,
    schema: bool,
) -> None:
    """Checks every point of a sweep file, says what would run.

    Writes nothing.
    """
    outputs = {"--json": as_json, "--overrides": lines, "--explain": explain is not None, "--schema": schema}
    if len(options := [name for name, is_given in outputs.items() if is_given]) > 1:
        raise click.UsageError(f"{options[1]}: not allowed with {options[0]}")
    if schema:
        from gpt_opt.sweep.json_schema import schema as schema_of_files

        print(json.dumps(schema_of_files(), indent=2))
        return
    if file is None:
        raise click.UsageError("the sweep file is missing, for example: gptopt plan params/beta_sweep.json")
    from gpt_opt.cli.views import plan as views
    from gpt_opt.dispatch.backends.limits import check_plan
    from gpt_opt.own_app.here import app_here
    from gpt_opt.plan.planner_of import planner_of
    from gpt_opt.table import show, terminal_width

    planner = planner_of(app_here())
    try:
        found = planner.plan(file, overrides, slots)
        check_plan(found.shapes, backend)
    except RequestError as error:
        if as_json:
            problems = [{"where": item.where, "message": item.message, "fix": item.fix} for item in error.problems]
            print(json.dumps({"sweep": file.stem, "errors": problems, "items": []}, indent=2))
        raise
    if as_json:
        print(json.dumps(views.as_record(found), indent=2))
    elif lines:
        print(views.override_lines(found))
    elif explain is not None:
        run = next((run for run in found.counted if run.name == explain), None)
        if run is None:
            names = f"{found.counted[0].name} to {found.counted[-1].name}"
            raise click.UsageError(f"--explain takes the index of a run, {names}: {explain}")
        print(views.explanation(run, planner.nearest(run.overrides)))
    else:
        show(views.as_text(found, terminal_width(sys.stdout)), sys.stdout)
