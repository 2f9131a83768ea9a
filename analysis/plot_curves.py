"""`python -m analysis.plot_curves outputs/`: draws the learning curves of the runs below a folder."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.load import load_metrics, load_runs
from analysis.plots import curves, save_figure
from gpt_opt.errors import exit_code, say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis.plot_curves", description="Learning curves as a PNG.")
    parser.add_argument("path", type=Path, nargs="+", help="a folder of runs, or a run directory")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to save the figure (default: PATH/curves.png)"
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    logging.getLogger("analysis").setLevel(logging.ERROR)  # the problems are printed once, at the end
    runs, metrics = load_runs(options.path), load_metrics(options.path)
    target = options.output if options.output is not None else options.path[0] / "curves.png"
    save_figure(curves(runs, metrics), target)
    for problem in dict.fromkeys((*runs.attrs["problems"], *metrics.attrs["problems"])):
        say(f"problem: {problem}")
    print(f"figure: {target}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, or 2 when there is nothing to draw or the figure cannot be saved.
    """
    return exit_code(lambda: _run(_parser().parse_args(arguments)), failed=2)


if __name__ == "__main__":
    sys.exit(main())
