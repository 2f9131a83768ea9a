"""`python -m analysis.plots SWEEP`: saves the figures of a submitted sweep, or of the runs below a folder."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pandas as pd
from matplotlib.figure import Figure

from analysis.answers.stages import of_stage
from analysis.load import load_metrics
from analysis.parameters import find_column
from analysis.places import find_place
from analysis.plots import (
    NothingToPlot,
    curves,
    frontier,
    heat_map,
    parallel,
    parameter,
    pipeline,
    save_figure,
    sensitivity,
)
from analysis.plots.horizontal import X
from gpt_opt.errors import GptOptError, exit_code
from gpt_opt.records.sweep_dir import Sweep

FIGURES = ("curves", "parameter", "parallel", "heat_map", "sensitivity", "frontier", "pipeline")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis.plots", description="Figures of a sweep.")
    parser.add_argument("place", metavar="SWEEP", help="a submitted sweep, or a folder of runs")
    parser.add_argument("figures", metavar="FIGURE", nargs="*", help=f"{', '.join(FIGURES)} (default: all there are)")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where to save (default: SWEEP/figures)")
    parser.add_argument("--format", default="png", choices=("png", "pdf", "svg"), help="of the files (default: png)")
    parser.add_argument("--metric", help="final metric (default: accuracy in evaluations, else evaluation loss)")
    parser.add_argument(
        "--over",
        default="seed",
        metavar="KEY",
        help="config key to average over, the end of one will do; none for each run",
    )
    parser.add_argument("--stage", help="stage of the sweep (default: those that no other starts from)")
    parser.add_argument("--x", choices=get_args(X), default="step", help="axis of the curves (default: step)")
    parser.add_argument("--smooth", type=float, default=0.0, metavar="PART", help="part of the steps to smooth over")
    return parser


def _over(runs: pd.DataFrame, name: str) -> str | None:
    """Returns the config key to average over, which the end of it names; None for none.

    Raises:
        GptOptError: If the runs have no such key, or several.
    """
    if name == "none":
        return None
    return name if name == "seed" else find_column(runs, name)


def _draw(name: str, options: argparse.Namespace, sweep: Sweep | None, every: pd.DataFrame, over: str | None) -> Figure:
    metric = options.metric
    if name == "pipeline":
        if sweep is None:
            raise NothingToPlot("a submitted sweep is needed, not a folder of runs")
        return pipeline(sweep, every)
    runs = of_stage(every, options.stage, over or "seed")[0]
    if name in ("curves", "frontier"):
        metrics = load_metrics(runs.loc[runs["step"].notna(), "path"].tolist())
        return (
            curves(runs, metrics, metric, options.x, options.smooth, over)
            if name == "curves"
            else frontier(runs, metrics, over=over)
        )
    if name == "sensitivity":
        return sensitivity(runs, metric or "eval/loss")
    if name == "heat_map":
        return heat_map(runs, metric, over=over)
    return parameter(runs, metric, over=over) if name == "parameter" else parallel(runs, metric, over=over)


def _run(options: argparse.Namespace) -> None:
    if unknown := [name for name in options.figures if name not in FIGURES]:
        raise GptOptError(f"a figure must be one of {', '.join(FIGURES)}, but is {', '.join(unknown)}")
    logging.getLogger("analysis").setLevel(logging.ERROR)  # `python -m analysis.summarize` lists what is wrong
    place = find_place(options.place)
    runs = place.runs()
    over = _over(runs, options.over)
    folder = options.output or place.root / "figures"
    saved, left_out = 0, []
    for name in options.figures or FIGURES:
        try:
            figure = _draw(name, options, place.sweep, runs, over)
        except GptOptError as error:
            left_out.append(f"{name}: {error}")
            continue
        target = folder / f"{name}.{options.format}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GptOptError(f"the figures cannot be saved there, give another -o FOLDER: {error}") from error
        save_figure(figure, target)
        saved += 1
        print(f"figure: {target}")
    if left_out and (options.figures or not saved):
        raise NothingToPlot("\n".join(left_out))
    for line in left_out:
        print(f"no {line}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, or 2 when nothing, or something that was asked for, cannot be drawn or saved.
    """
    return exit_code(lambda: _run(_parser().parse_args(arguments)), failed=2)


if __name__ == "__main__":
    sys.exit(main())
