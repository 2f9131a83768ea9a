"""A sweep that is watched: bars that move on a terminal, a line at every change elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from gpt_opt.cli.views.parts import one_line
from gpt_opt.cli.views.status import as_text, failure_lines, head, number_text, outcome, overrides, state_text, steps
from gpt_opt.dispatch.run_status import RunStatus
from gpt_opt.dispatch.start import goes_on
from gpt_opt.dispatch.sweep_status import SweepStatus, gather
from gpt_opt.errors import duration
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Sweep
from gpt_opt.sweep.varying import common_and_varying, parameters, short_names
from gpt_opt.table import coloured, show, terminal_width, wrapped

ASK_SLURM_EVERY_S = 15.0
"""How often Slurm is asked."""


def watch(sweep: Sweep, out: TextIO, every_s: float = 2.0) -> SweepStatus:
    """Shows a sweep until nothing runs and no job is alive; returns the last status seen.

    A terminal is redrawn in place; anything else gets a line when counts change. Both end with the table.

    Raises:
        KeyboardInterrupt: If Ctrl-C ends it, with what becomes of the sweep.
    """
    console = Console(file=out, highlight=False)
    live = out.isatty() and not console.is_dumb_terminal
    status = first = gather(sweep)
    shown, stopped = "", False
    try:
        if not live:
            show(head(first)[0], out)
        with Live(console=console, auto_refresh=False, transient=True) if live else nullcontext() as screen:
            for status in _follow(sweep, first, every_s):
                if screen is not None:
                    screen.update(_live(status, console), refresh=True)
                    console.show_cursor()  # a process that is killed would leave the terminal without one
                elif (line := outcome(status)) != shown:
                    shown = line
                    show(line, out)
                    out.flush()
    except KeyboardInterrupt:
        stopped = True
    show("\n" * (stopped or not live) + as_text(status, terminal_width(out)), out)
    if stopped:
        raise KeyboardInterrupt(f"{sweep.label} {goes_on(sweep.label)}")
    return status


def _follow(sweep: Sweep, status: SweepStatus, every_s: float) -> Iterator[SweepStatus]:
    """Yields the status of a sweep again and again until nothing works on it."""
    asked = time.monotonic()
    while True:
        yield status
        if status.all_done or status.idle:
            return
        time.sleep(every_s)
        ask = time.monotonic() - asked >= ASK_SLURM_EVERY_S
        asked = time.monotonic() if ask else asked
        status = gather(sweep, ask, status)


def _live(status: SweepStatus, console: Console) -> Group:
    """Returns a live view: head, bars, failures; what a low terminal has no room for is counted."""
    lines = [part for line in head(status) for part in wrapped(line, console.width)]
    below = failure_lines(status, console.width)
    room = max(2, console.height - len(lines) - 4)
    if len(below) > room // 2:
        below = [*below[: room // 2], f"... and {len(below) - room // 2} more lines; gptopt status has all"]
    return Group(coloured("\n".join(lines)), _bars(status, room - len(below)), *map(coloured, below))


def _bars(status: SweepStatus, most: int) -> Table:
    """Returns a bar for the sweep and one for each running run, as many as there is room for."""
    _, varying = common_and_varying([overrides(status, item) for item in status.runs])
    names = short_names(varying)
    bars = Table.grid(padding=(0, 1), expand=True)
    bars.add_column(max_width=40, no_wrap=True, overflow="ellipsis")
    bars.add_column(ratio=1, min_width=8)
    bars.add_column(justify="right", no_wrap=True, overflow="ellipsis")
    done = math.floor(100 * status.fraction)
    bars.add_row("all", ProgressBar(100, done), f"{done}%")
    running = [item for item in status.runs if item.what.is_running]
    for item in running[:most]:
        values = parameters(overrides(status, item))
        label = " ".join([item.run.name, *(f"{names[key]}={values[key]}" for key in names if key in values)])
        label += f" [{state_text(item)}]" if item.state is State.STALLED else ""
        bar = ProgressBar(item.total_steps, item.step)
        bars.add_row(coloured(one_line(label)), bar, _numbers(item, status.metric.name))
    if len(running) > most:
        bars.add_row(f"... and {len(running) - most} more running")
    return bars


def _numbers(item: RunStatus, metric: str) -> str:
    """Returns how far a running run is: `30/100, 2 min, 5 steps/s, loss=0.5`."""
    parts = [steps(item), "" if item.time_s is None else duration(item.time_s)]
    parts.append("" if item.progress.steps_per_s is None else f"{item.progress.steps_per_s:.3g} steps/s")
    parts.append("" if item.progress.latest is None else f"{metric}={number_text(metric, item.progress.latest)}")
    return ", ".join(filter(None, parts))
