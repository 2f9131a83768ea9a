"""The verb `collect`."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from gpt_opt.cli.arguments import FILE, SWEEP_OR_DIR, errors_are_2, require_file_in_folder
from gpt_opt.errors import ConfigError, Problem, say


@click.command()
@SWEEP_OR_DIR
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help="The file: .parquet or .csv.")
@click.option("--metrics", is_flag=True, help="Write the learning curves, a row a run and step.")
@errors_are_2
def collect(where: str | None, output: Path, metrics: bool) -> None:
    """Writes one table of all runs.

    A row a run, unfinished and broken ones included: config, final metrics, state, times.
    """
    if output.suffix.lower() not in (".parquet", ".csv"):
        problem = f"must end in .parquet or .csv, but is {output}"
        better = output.with_suffix(".parquet") if output.name else "results.parquet"
        raise ConfigError([Problem("--output", problem, f"write -o {better}")])
    require_file_in_folder(output)
    from analysis.places import find_place, no_runs
    from analysis.tables import save_frame

    logging.getLogger("analysis").setLevel(logging.ERROR)  # what load_runs warns of is said below
    place = find_place(where)
    frame = place.metrics() if metrics else place.runs()
    if frame.empty and place.runs().empty:
        raise no_runs(place.root)
    save_frame(frame, output)
    for problem in frame.attrs["problems"]:
        say(f"problem: {problem}")
    print(f"{output}: {len(frame)} rows, {len(frame.columns)} columns")
