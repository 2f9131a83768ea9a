"""The verb `report`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt_opt.cli.arguments import FILE, SWEEP_OR_DIR, at_least, errors_are_2, require_file_in_folder
from gpt_opt.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report import Source
    from gpt_opt.dispatch.sweep_status import SweepStatus
    from gpt_opt.records.sweep_dir import Sweep


@click.command()
@SWEEP_OR_DIR
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Where to write it (default: report.html in there).")
@click.option("--metric", metavar="NAME", help="What to compare runs by (default: the sweep's, or the usual one).")
@click.option("--watch", "is_watched", is_flag=True, help="Write it again and again until nothing runs any more.")
@click.option(
    "--every", "every_s", type=int, default=30, callback=at_least(1), help="Seconds between two times (default: 30)."
)
@errors_are_2
def report(where: str | None, output: Path | None, metric: str | None, is_watched: bool, every_s: int) -> None:
    """Writes one HTML file with table, figures and origin.

    It needs no network: it can be mailed, or lie beside a paper.
    """
    from analysis.report import page
    from gpt_opt.records.io import write_text

    if output is not None:
        require_file_in_folder(output)
    logging.getLogger("analysis").setLevel(logging.ERROR)  # what could not be read stands in the report
    reader = Reader(where, metric)
    file, printed = reader.folder / "report.html" if output is None else output, ""
    try:
        while True:
            source, outcome = reader.read()
            write_text(file, page(source, every_s if is_watched else None))
            if outcome != printed:
                print(f"{file}: {outcome}", flush=True)
            printed = outcome
            if not is_watched or source.is_over:
                return
            time.sleep(every_s)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{file} stays as it is; the same command goes on") from stop


class Reader:
    """Reads what a report is about, again and again where that is asked for.

    Args:
        where: A submitted sweep or a folder of runs, as the user named it; None for the last sweep.
        metric: As the user named it; None for that of the sweep, or the usual one.

    Raises:
        GptOptError: If there is no such sweep and no such folder.
    """

    def __init__(self, where: str | None, metric: str | None) -> None:
        from analysis.places import find_place

        self._place = find_place(where)
        self._metric = metric
        self._before: SweepStatus | None = None
        self.folder = self._place.root

    def read(self) -> tuple[Source, str]:
        """Returns what to report on as it is now, and in one line how it stands."""
        sweep = self._place.sweep
        return self._read_folder() if sweep is None else self._read_sweep(sweep)

    def _read_sweep(self, sweep: Sweep) -> tuple[Source, str]:
        from analysis.answers import answer
        from analysis.report import Source
        from gpt_opt.cli.views import status as views
        from gpt_opt.dispatch.sweep_status import gather

        status = self._before = gather(sweep, before=self._before)
        record, runs, metrics = views.as_record(status), self._place.runs(), self._place.metrics()
        source = Source(
            title=sweep.label,
            runs=runs,
            metrics=metrics,
            base=Path(status.submission.cwd),
            answer=answer(runs, self._metric, of_sweep=status.submission.metric),
            sweep=sweep,
            status=record,
            failures=record["failures"],
            notes=_notes(runs, metrics, [*record["notes"], *record["advice"]]),
            is_over=status.all_done or status.idle,
        )
        return source, views.outcome(status)

    def _read_folder(self) -> tuple[Source, str]:
        from analysis.answers import answer
        from analysis.places import no_runs
        from analysis.report import Source
        from gpt_opt.records.state import State

        runs, metrics = self._place.runs(), self._place.metrics()
        if runs.empty:
            raise no_runs(self.folder)
        running = int((runs["state"] == State.RUNNING).sum())
        source = Source(
            title=self.folder.resolve().name,
            runs=runs,
            metrics=metrics,
            base=Path.cwd(),
            answer=answer(runs, self._metric),
            sweep=None,
            status=None,
            failures=_failures(runs),
            notes=_notes(runs, metrics),
            is_over=not running,
        )
        return source, f"{counted(len(runs), 'run')}, {running} running"


def _notes(runs: pd.DataFrame, metrics: pd.DataFrame, of_status: Sequence[str] = ()) -> list[str]:
    """Returns what could not be read, and what a status says beside; the code of runs stands in their provenance."""
    from gpt_opt.records.code import OTHER_CODE

    lines = [*runs.attrs["problems"], *metrics.attrs["problems"], *of_status]
    return [line for line in lines if OTHER_CODE not in line]


def _failures(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the failed runs of a folder by cause, as `gptopt status --json` groups those of a sweep."""
    from analysis.parameters import format_value, varying_parameters
    from gpt_opt.cli.views.status import failure_record
    from gpt_opt.dispatch.failure_groups import Failure, grouped
    from gpt_opt.records.state import State

    errors = zip(runs["state"].tolist(), runs["error"].fillna("").tolist(), strict=True)
    failed = [(row, error) for row, (state, error) in enumerate(errors) if state == State.FAILED]
    failures = [Failure(row, State.FAILED, "exception", error) for row, error in failed]
    rows = runs[varying_parameters(runs)].to_dict("records")
    values = {i: [f"{key}={format_value(value)}" for key, value in row.items()] for i, row in enumerate(rows)}
    return [failure_record(group) for group in grouped(failures, values)]
