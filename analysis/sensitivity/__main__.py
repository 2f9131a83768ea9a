"""`python -m analysis.sensitivity SWEEP`: compares the optimizers of a sweep at their best learning rates."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.answers.cost import time_to_target
from analysis.answers.metric import direction
from analysis.load import load_metrics, load_runs
from analysis.next_sweeps import save_sweep, sweep_file
from analysis.parameters import find_column, with_absent_values
from analysis.places import Place, find_place
from analysis.plots import save_figure
from analysis.plots.optimum import draw
from analysis.sensitivity.budget import AXIS, BY, Asked, budget, check_comparable, left_out, lines_of
from analysis.sensitivity.compare import Curve, curves, default_target, extension, more_seeds
from analysis.sensitivity.report import comparison_table, remarks, table_text
from analysis.tables import save_table
from gpt_opt.errors import GptOptError, counted, exit_code, say
from gpt_opt.records.metrics import metric_label, metric_text
from gpt_opt.table import show, terminal_width

SEEDS = 3
"""Seeds that --seeds asks for at each best point."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.sensitivity",
        description="The final loss against the learning rate for each optimizer: table, figure, what to run next.",
    )
    parser.add_argument("places", metavar="SWEEP", nargs="+", help="a submitted sweep, or a folder of runs")
    parser.add_argument("--metric", help="metric to compare by (default: that of the sweep file, or eval/loss)")
    parser.add_argument("--goal", choices=("minimize", "maximize"), help="its direction, where it is a metric of yours")
    parser.add_argument("--by", default=BY, metavar="KEY", help="config key with a line a value (default: %(default)s)")
    parser.add_argument(
        "--axis", default=AXIS, metavar="KEY", help="config key of the axis, values above 0 (default: %(default)s)"
    )
    parser.add_argument("--tokens", type=int, help="training tokens of the runs to compare (default: of most runs)")
    parser.add_argument("--target", type=float, help="value to time (default: what half of the optimizers reach)")
    parser.add_argument("--extend", type=Path, metavar="FILE", help="write the sweep file that extends the grids there")
    parser.add_argument("--seeds", type=Path, metavar="FILE", help=f"write one with {SEEDS} seeds at each best point")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to save the figure (default: SWEEP/sensitivity.png)"
    )
    return parser


def _load(places: Sequence[Place]) -> tuple[pd.DataFrame, list[str]]:
    """Returns the runs that have begun, and of each planned one that has not the overrides that set it apart."""
    folders, not_started = [], []
    for place in places:
        if (sweep := place.sweep) is None:
            folders.append(place.root)
            continue
        for run in sweep.runs:
            if (root := run.paths().root).is_dir():
                folders.append(root)
            else:
                not_started.append(f"{run.index} of {sweep.label}: {' '.join(run.overrides)}")
    return load_runs(folders), not_started


def _asked(options: argparse.Namespace, place: Place, runs: pd.DataFrame) -> Asked:
    if runs.empty:
        raise GptOptError(f"runs are needed, but there are none below {' '.join(options.places)}")
    of_sweep = (None if place.sweep is None else place.sweep.submission().metric) or {}
    metric = options.metric or of_sweep.get("name", "eval/loss")
    goal = options.goal or (of_sweep.get("goal") if metric == of_sweep.get("name") else None)
    by, axis = find_column(runs, options.by), find_column(runs, options.axis)
    return Asked(metric, direction(metric, goal), by, axis, options.tokens)


def _next(found: Sequence[Curve], asked: Asked, place: Place, options: argparse.Namespace) -> None:
    """Says which optima are not interior, and prints or writes what to run next."""
    for line in remarks(found, asked):
        print(line)
    wider, seeds = extension(found, asked.axis), more_seeds(found, SEEDS)
    for what, members, file, nothing in (
        ("extended", wider, options.extend, "every optimum is interior: there is nothing to extend"),
        ("seeds", seeds, options.seeds, f"every best point has {SEEDS} seeds: there is nothing to add"),
    ):
        if not members:
            if file is not None:
                print(nothing)
            continue
        document = sweep_file(f"{place.name}_{what}", members, asked.metric, asked.greater, place.resources)
        if file is not None:
            print(save_sweep(document, file))
        elif what == "extended":
            print(f"a sweep file that extends these grids (--extend FILE writes it):\n{json.dumps(document, indent=2)}")
        else:
            print(f"some best points have fewer than {SEEDS} seeds: --seeds FILE writes a sweep file that adds them")


def _run(options: argparse.Namespace) -> None:
    logging.getLogger("analysis").setLevel(logging.ERROR)  # what load_runs warns of stands below the table
    places = [find_place(name) for name in options.places]
    loaded, not_started = _load(places)
    runs = with_absent_values(loaded)
    asked = _asked(options, places[0], runs)
    reasons = left_out(runs, asked)
    compared = runs[reasons == ""]
    check_comparable(compared, asked)
    found, tokens = curves(runs, reasons, asked), budget(compared, asked)
    target = default_target(found, asked) if options.target is None else options.target
    best = [curve.best for curve in found]
    metrics = load_metrics([folder for item in best for folder in item.folders])
    times = time_to_target(best, runs, metrics, target, asked.metric, asked.greater)
    rows = list(zip(found, times, strict=True))
    figure = options.output if options.output is not None else places[0].root / "sensitivity.png"
    table = figure.with_suffix(".csv")
    show(table_text(rows, target, asked, terminal_width(sys.stdout)), sys.stdout)
    label = metric_label(asked.metric)
    head = f"{counted(len(compared), 'run')} of {tokens:,} tokens, compared by {label}"
    print(f"\n{head}; ± is the standard deviation over seeds")
    print(f"target: {label} {metric_text(asked.metric, target)}; steps between two evaluations are interpolated")
    lines = [*lines_of(runs, reasons), *(f"{line}: not started" for line in not_started)]
    if lines:
        print(f"\nleft out: {len(lines)}", *(f"  {line}" for line in lines), sep="\n")
    print()
    save_figure(draw(found, asked, tokens), figure)
    save_table(comparison_table(rows, target, asked), table, "give another -o FILE")
    for problem in loaded.attrs["problems"]:
        say(f"problem: {problem}")
    print(f"figure: {figure}\ntable: {table}")
    _next(found, asked, places[0], options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, or 2 when there is nothing to compare or a file cannot be saved.
    """
    return exit_code(lambda: _run(_parser().parse_args(arguments)), failed=2)


if __name__ == "__main__":
    sys.exit(main())
