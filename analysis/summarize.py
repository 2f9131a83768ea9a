"""`python -m analysis.summarize outputs/`: prints the table of the runs below a folder and saves it as CSV."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.answers.metric import metric_columns
from analysis.load import load_runs
from analysis.parameters import parameter_columns
from analysis.run_table import RUN_COLUMNS
from analysis.tables import json_value, render_table, save_table, summary_table
from gpt_opt.errors import exit_code
from gpt_opt.table import show, terminal_width


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis.summarize", description="One table, a row a run.")
    parser.add_argument("path", type=Path, nargs="+", help="a folder of runs, or a run directory")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="where to save the table (default: PATH/summary.csv)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document and nothing else; saves a CSV only with --csv"
    )
    return parser


def _run_records(runs: pd.DataFrame) -> list[dict[str, Any]]:
    groups = {"config": parameter_columns(runs), "metrics": metric_columns(runs)}
    records = []
    for row in runs.to_dict("records"):
        own = {name: row[name] for name in RUN_COLUMNS}
        records.append(
            json_value(own | {title: {name: row[name] for name in names} for title, names in groups.items()})
        )
    return records


def _text(runs: pd.DataFrame, table: pd.DataFrame, places: str) -> str:
    """Returns the table with everything that is wrong listed below it."""
    if runs.empty:
        return f"no runs below {places}"
    parts = [render_table(table, terminal_width(sys.stdout))]
    failed = runs[runs["error"].notna()]
    if len(failed):
        parts += [f"\nruns with errors: {len(failed)}", *("  " + failed["path"] + ": " + failed["error"])]
    if problems := runs.attrs["problems"]:
        parts += [f"\nproblems: {len(problems)}", *(f"  {problem}" for problem in problems)]
    return "\n".join(parts)


def _run(options: argparse.Namespace) -> None:
    logging.getLogger("analysis").setLevel(logging.ERROR)  # what load_runs warns of stands below the table
    runs = load_runs(options.path)
    table = summary_table(runs)
    target = options.csv if options.csv is not None or options.json else options.path[0] / "summary.csv"
    if options.json:
        document = {"runs": _run_records(runs), "problems": runs.attrs["problems"]}
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        show(_text(runs, table, ", ".join(map(str, options.path))), sys.stdout)
    if target is not None:
        save_table(table, target, "give another --csv FILE")
        if not options.json:
            print(f"\ntable: {target}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, or 2 when a path cannot be read or the table cannot be saved.
    """
    return exit_code(lambda: _run(_parser().parse_args(arguments)), failed=2)


if __name__ == "__main__":
    sys.exit(main())
