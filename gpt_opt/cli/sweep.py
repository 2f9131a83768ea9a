"""The verbs that look after a sweep that was submitted: status, logs, retry, cancel."""

from __future__ import annotations

import json
import sys

import click

from gpt_opt.cli.arguments import JSON, SWEEP, SWEEPS, agrees, complete_sweep, run_or
from gpt_opt.errors import GptOptError, counted

CODES = (
    "0 all runs are done, 1 a run failed or something else waits for you, 3 still running, nothing failed so far, "
    "130 after Ctrl-C"
)


@click.command(epilog=f"Exit codes: {CODES}.")
@click.argument(
    "sweep",
    required=False,
    help="A sweep: its name, name/number, or directory; by default the last one submitted.",
    shell_complete=complete_sweep,
)
@click.option(
    "--watch",
    "is_watched",
    is_flag=True,
    help="Keep it up to date until nothing runs any more; with --json on standard error, the document at the end.",
)
@JSON
def status(sweep: str | None, is_watched: bool, as_json: bool) -> int:
    """Says how the runs of a sweep are doing."""
    from gpt_opt.cli.views import status as views
    from gpt_opt.dispatch.sweep_status import gather
    from gpt_opt.records.sweep_dir import find
    from gpt_opt.table import show, terminal_width

    target = find(sweep, SWEEPS)
    if is_watched:
        from gpt_opt.cli.views.watch import watch

        found = watch(target, sys.stderr if as_json else sys.stdout)
    else:
        found = gather(target)
    if as_json:
        print(json.dumps(views.as_record(found), indent=2))
    elif not is_watched:
        show(views.as_text(found, terminal_width(sys.stdout)), sys.stdout)
    return found.exit_code


@click.command()
@SWEEP
@run_or("the driver's log")
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the run ends.")
def logs(sweep: str, run: str | None, follow: bool) -> None:
    """Prints what a run, or the driver, said."""
    from gpt_opt.cli.views import logs as views
    from gpt_opt.records.sweep_dir import find

    target = find(sweep, SWEEPS)
    views.show(target, None if run is None else target.run(run), follow, sys.stdout)


@click.command()
@SWEEP
@run_or("all that fit")
@click.option("--state", default="FAILED", help="State to start again, as status shows it (default: FAILED).")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only runs with this value; may be repeated.")
def retry(sweep: str, run: str | None, state: str, where: tuple[str, ...]) -> int:
    """Starts runs again that failed, were cancelled or are STALE."""
    from gpt_opt.cli.views.submit import as_text
    from gpt_opt.dispatch.actions import retry as start_again
    from gpt_opt.records.sweep_dir import find

    target = find(sweep, SWEEPS)
    outcome = start_again(target, state.upper(), list(where), None if run is None else target.run(run))
    print(as_text(outcome))
    return int(outcome.is_blocked)


@click.command()
@SWEEP
@run_or("all of them")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--children", is_flag=True, help="Also the runs that start from it.")
def cancel(sweep: str, run: str | None, yes: bool, children: bool) -> None:
    """Stops runs, each with a checkpoint."""
    from gpt_opt.dispatch.actions import cancel as stop
    from gpt_opt.dispatch.actions import descendants, open_runs
    from gpt_opt.records.sweep_dir import find

    target = find(sweep, SWEEPS)
    runs = open_runs(target, None if run is None else target.run(run))
    if not runs:
        print(f"nothing to cancel: no run of {target.label} that was meant is waiting or running")
        return
    if not yes and not agrees("cancel", f"stop {counted(len(runs), 'run')} of {target.label}?"):
        raise GptOptError("nothing was cancelled")
    below = descendants(target, runs)
    runs += below if children else []
    stop(target, runs)
    cancelled = f"{counted(len(runs), 'run')} of {target.label}"
    print(f"cancelled {cancelled}; running ones checkpoint first and end within a minute")
    if below and not children:
        names = ", ".join(item.name for item in below[:5]) + (", ..." if len(below) > 5 else "")
        again = f"gptopt cancel {target.label} {run} --children cancels them too"
        print(f"BLOCKED now, for they start from what was cancelled: {names}; {again}, a retry of it frees them")
