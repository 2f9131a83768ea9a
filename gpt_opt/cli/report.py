"""The verb `report`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt_opt.cli.arguments import FILE, SWEEPS, at_least_one, complete_sweep

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report import Source
    from gpt_opt.dispatch.sweep_status import SweepStatus
    from gpt_opt.records.sweep_dir import Sweep


@click.command()
@click.argument(
    "target",
    metavar="SWEEP_OR_DIR",
    help="A sweep: its name, name/number, or directory; or a folder of runs.",
    shell_complete=complete_sweep,
)
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Where to write it (default: report.html in there).")
@click.option("--metric", help="What to compare runs by (default: the sweep's, else accuracy or loss of evaluations).")
@click.option("--watch", "is_watched", is_flag=True, help="Write it again and again until nothing runs any more.")
@click.option(
    "--every", "every_s", type=int, default=30, callback=at_least_one, help="Seconds between two times (default: 30)."
)
def report(target: str, output: Path | None, metric: str | None, is_watched: bool, every_s: int) -> None:
    """Writes one HTML file with table, figures and origin.

    It needs no network: it can be mailed, or lie beside a paper.
    """
    import logging

    from analysis.report import page
    from gpt_opt.records.io import write_text

    logging.getLogger("analysis").setLevel(logging.ERROR)  # what could not be read stands in the report
    where = _Target(target)
    file = output if output is not None else where.folder / "report.html"
    told = ""
    try:
        while True:
            source, outcome = where.read(metric)
            write_text(file, page(source, every_s if is_watched else None))
            if outcome != told:
                print(f"{file}: {outcome}", flush=True)
            told = outcome
            if not is_watched or source.is_over:
                return
            time.sleep(every_s)
    except KeyboardInterrupt:
        print(f"{file} stays as it is; the same command goes on")


class _Target:
    """What a report is about: a submitted sweep, or else a folder of runs.

    Args:
        name: As the user named it.

    Raises:
        RequestError: If it is neither.
    """

    def __init__(self, name: str) -> None:
        from gpt_opt.errors import RequestError
        from gpt_opt.records.sweep_dir import find

        self.sweep: Sweep | None = None
        try:
            self.sweep = find(name, SWEEPS)
        except RequestError:
            if not Path(name).is_dir():
                raise
        self.folder = Path(name) if self.sweep is None else self.sweep.root
        self._before: SweepStatus | None = None

    def read(self, metric: str | None) -> tuple[Source, str]:
        """Returns what to report on as it is now, and in one line how it stands."""
        return self._read_folder(metric) if self.sweep is None else self._read_sweep(self.sweep, metric)

    def _read_sweep(self, sweep: Sweep, metric: str | None) -> tuple[Source, str]:
        from analysis import load_metrics, load_runs
        from analysis.report import Source
        from gpt_opt.cli.views import status as views
        from gpt_opt.dispatch.sweep_status import gather

        status = self._before = gather(sweep, before=self._before)
        record, runs, metrics = views.as_record(status), load_runs(sweep=sweep.root), load_metrics(sweep=sweep.root)
        source = Source(
            title=sweep.label,
            runs=runs,
            metrics=metrics,
            base=Path(status.submission.cwd),
            answer=_answer(runs, metric, status.submission.metric),
            sweep=sweep,
            status=record,
            failures=record["failures"],
            notes=_notes(runs, metrics, [*record["notes"], *record["advice"]]),
            is_over=status.all_done or status.idle,
        )
        return source, views.outcome(status)

    def _read_folder(self, metric: str | None) -> tuple[Source, str]:
        from analysis import load_metrics, load_runs
        from analysis.report import Source
        from gpt_opt.errors import Problem, RequestError
        from gpt_opt.plan.resources import run_count
        from gpt_opt.records.state import State

        runs, metrics = load_runs(self.folder), load_metrics(self.folder)
        if runs.empty:
            problem = f"must be a submitted sweep or a folder with runs, but no run lies below {str(self.folder)!r}"
            raise RequestError([Problem("SWEEP_OR_DIR", problem, "outputs/ is where runs are written")])
        running = int((runs["state"] == State.RUNNING).sum())
        source = Source(
            title=self.folder.resolve().name,
            runs=runs,
            metrics=metrics,
            base=Path.cwd(),
            answer=_answer(runs, metric, None),
            sweep=None,
            status=None,
            failures=_failures(runs),
            notes=_notes(runs, metrics),
            is_over=not running,
        )
        return source, f"{run_count(len(runs))}, {running} running"


def _answer(runs: pd.DataFrame, metric: str | None, of_sweep: Mapping[str, str] | None) -> Any:
    """Returns what runs say of a metric; in a pipeline those of the stages that have it.

    Args:
        runs: Of the sweep or folder.
        metric: As the user named it; None for that of the sweep.
        of_sweep: Name and goal of the metric that the sweep file names, if it does.
    """
    from analysis.answers import answer, find_metric, usual_metric

    goal = None
    if metric is not None:
        name = find_metric(runs, metric)
    elif of_sweep is not None:
        name, goal = of_sweep["name"], of_sweep.get("goal")
    else:
        name = usual_metric(runs)
    if "stage" in runs.columns and name in runs.columns:
        having = set(runs.loc[runs[name].notna(), "stage"])
        runs = runs[runs["stage"].isin(having)] if having else runs
    return answer(runs, name, goal=goal)


def _notes(runs: pd.DataFrame, metrics: pd.DataFrame, of_status: Sequence[str] = ()) -> list[str]:
    """Returns what could not be read, and what a status says beside; the code of runs stands in their provenance."""
    from gpt_opt.records.code import OTHER_CODE

    lines = [*runs.attrs["problems"], *metrics.attrs["problems"], *of_status]
    return [line for line in lines if OTHER_CODE not in line]


def _failures(runs: pd.DataFrame) -> Sequence[Mapping[str, Any]]:
    """Returns the failed runs of a folder by cause, as `gptopt status --json` groups those of a sweep."""
    from analysis.parameters import format_value, varying_parameters
    from gpt_opt.cli.views.status import failure_record
    from gpt_opt.dispatch.failure_groups import Failure, grouped
    from gpt_opt.records.state import State

    failed = enumerate(zip(runs["state"].tolist(), runs["error"].fillna("").tolist(), strict=True))
    failures = [
        Failure(row, State.FAILED, "exception", error) for row, (state, error) in failed if state == State.FAILED
    ]
    keys = varying_parameters(runs)
    values = zip(*(runs[key].tolist() for key in keys), strict=True) if keys else [()] * len(runs)
    overrides = {
        row: [f"{key}={format_value(value)}" for key, value in zip(keys, items, strict=True)]
        for row, items in enumerate(values)
    }
    return [failure_record(group) for group in grouped(failures, overrides)]
