"""The verbs that say what came out of runs: results, diff."""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt_opt.cli.arguments import FILE, JSON, SWEEP_OR_DIR, complete_named_run, errors_are_2
from gpt_opt.errors import say

if TYPE_CHECKING:
    import pandas as pd

    from analysis.answers import Answer
    from analysis.places import Place
    from gpt_opt.records.sweep_dir import Sweep

FORMATS = ("table", "csv", "latex", "markdown", "json")
COSTS = ("time_s", "tokens", "gpu_s")
CODES = "0 here is an answer, 1 every run failed, 2 the request was wrong, 3 no run has ended yet"


@click.command(epilog=f"Exit codes: {CODES}.")
@SWEEP_OR_DIR
@click.option("--metric", metavar="NAME", help="Name or label (eval/accuracy); default: the sweep's, or the usual one.")
@click.option("--goal", type=click.Choice(("minimize", "maximize")), help="Its direction, where it is one of yours.")
@click.option("--by", multiple=True, metavar="KEY", help="Config key to compare values of (default: all that vary).")
@click.option("--over", default="seed", metavar="KEY", help="Config key to average over (default: seed).")
@click.option("--stage", metavar="NAME", help="Stage of a sweep that has them (default: those at the end).")
@click.option("--cost", type=click.Choice(COSTS), default="time_s", help="What quality is weighed against.")
@click.option("--target", type=float, metavar="VALUE", help="Value of the metric: also say how long runs take to it.")
@click.option("--seeds", type=FILE, metavar="FILE", help="Write the sweep file that adds seeds where they are too few.")
@click.option("--extend", type=FILE, metavar="FILE", help="Write the sweep file that goes beyond the edge of a grid.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", help="How to print it (default: table).")
@JSON
@errors_are_2
def results(
    where: str | None,
    form: str,
    as_json: bool,
    metric: str | None,
    goal: str | None,
    by: tuple[str, ...],
    over: str,
    stage: str | None,
    cost: str,
    target: float | None,
    seeds: Path | None,
    extend: Path | None,
) -> int:
    """Says which setting of a sweep is the best.

    And how sure that is: mean, 95% interval and number of seeds of each setting, the best one tested against all
    others, which parameter matters, what quality costs, and optima at the edge of the grid.
    """
    from analysis.answers import answer
    from analysis.answers.cost import with_gpu_seconds
    from analysis.places import find_place, no_runs

    if target is not None and not math.isfinite(target):
        raise click.UsageError(f"--target takes a finite number, but got {target}")
    logging.getLogger("analysis").setLevel(logging.ERROR)  # what load_runs warns of stands below the table
    place = find_place(where)
    sweep, runs = place.sweep, place.runs()
    problems = runs.attrs["problems"]
    if runs.empty:
        raise no_runs(place.root)
    own = None if sweep is None else _metric(sweep, stage)
    curves = None if target is None else place.metrics()
    runs = with_gpu_seconds(runs) if cost == "gpu_s" else runs
    found = answer(
        runs, metric, by or None, over, stage=stage, goal=goal, cost=cost, target=target, metrics=curves, of_sweep=own
    )
    _print(found, sweep, runs, "json" if as_json else form, problems)
    _write_next(found, place, seeds, extend)
    return _code(found)


def _metric(sweep: Sweep, stage: str | None) -> dict[str, str] | None:
    """Returns name and goal of the metric that a sweep file has for its end, or for a stage; None for none."""
    submission = sweep.submission()
    stages = {run.index: run.stage for run in sweep.runs}
    if stage is None or not submission.stages or stage == submission.stages[-1].name:
        return submission.metric
    after = {run.stage for run in sweep.runs if run.parent is not None and stages[run.parent] == stage}
    return next((item.metric for item in submission.stages if item.name in after and item.metric), None)


def _print(found: Answer, sweep: Sweep | None, runs: pd.DataFrame, form: str, problems: list[str]) -> None:
    from gpt_opt.cli.views import results as views
    from gpt_opt.cli.views import results_formats as formats
    from gpt_opt.table import show, terminal_width

    if form == "json":
        record = formats.as_record(found, None if sweep is None else sweep.label)
        print(json.dumps(record | {"problems": problems}, indent=2, allow_nan=False))
        return
    if form != "table":
        print(formats.FORMATS[form](found), end="")
    else:
        head, advice = views.head(found, sweep, runs), views.advice(found, sweep)
        show(views.as_text(found, head, terminal_width(sys.stdout), advice), sys.stdout)
    for problem in problems:
        say(f"problem: {problem}")


def _write_next(found: Answer, place: Place, seeds: Path | None, extend: Path | None) -> None:
    """Writes the sweep files that were asked for."""
    from analysis.answers.next_runs import extension, more_seeds
    from analysis.next_sweeps import save_sweep, sweep_file

    for file, make, what, nothing in (
        (seeds, more_seeds, "seeds", "no settings need more seeds"),
        (extend, extension, "extended", "no optimum lies at the edge of its grid"),
    ):
        if file is None:
            continue
        if members := make(found):
            name = f"{place.name}_{what}"
            say(save_sweep(sweep_file(name, members, found.metric, found.greater, place.resources), file))
        else:
            say(f"{nothing}: {file} is not written")


def _code(found: Answer) -> int:
    counts = found.counts
    if counts["counted"]:
        return 0
    return 3 if counts["unfinished"] else 1 if counts["failed"] or counts["diverged"] else 2


@click.command()
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    metavar="RUN RUN",
    help="Directory or id of a run, or SWEEP INDEX.",
    shell_complete=complete_named_run,
)
@JSON
def diff(runs: tuple[str, ...], as_json: bool) -> None:
    """Says in what two runs differ.

    In config, code, data, packages, machine and results. A run is named by its directory, its id, or as `gptopt logs`
    takes it: gptopt diff beta_sweep 0 2.
    """
    from analysis.run_diff import compare_runs
    from gpt_opt.cli.run_arguments import two_runs
    from gpt_opt.cli.views import diff as views
    from gpt_opt.table import show, terminal_width

    found = compare_runs(*two_runs(runs))
    if as_json:
        print(json.dumps(views.as_record(found), indent=2, allow_nan=False))
    else:
        show(views.as_text(found, terminal_width(sys.stdout)), sys.stdout)
