"""The verbs that start runs: submit, drive, exec."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt_opt.cli.arguments import BACKEND, OVERRIDES, SWEEP_FILE, SWEEPS, at_least, complete_run, complete_sweep
from gpt_opt.cli.sweep import CODES
from gpt_opt.errors import ConfigError, Problem, RunFailed
from gpt_opt.records.job_id import this_job
from gpt_opt.sweep.model import Resources, settings

if TYPE_CHECKING:
    from gpt_opt.dispatch.submit import Request

_TYPES: Mapping[str, type] = {"integer": int, "number": float, "string": str, "array": str}
"""JSON type of a field of `Resources` to the type of its option."""


_LIVE = "Jobs import from this repository as it is then, not from a snapshot of what it is now."

_COLD = "Start each run as a new process, not as a child of its slot's warm one."

_RESOURCES = """
The options from --gpus-per-run on say what one run needs; they beat the sweep file and the config group resources.
"""


def _resource_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a verb an option for each field of `Resources`."""
    for name, (kind, text, _) in reversed(settings(Resources).items()):
        flag, json_type = f"--{name.replace('_', '-')}", kind.schema["type"]
        repeated = json_type == "array"
        text += f"; may be repeated: {flag}=--reservation=lab" if repeated else ""
        metavar = "OPTION" if repeated else "X"
        verb = click.option(flag, type=_TYPES[json_type], multiple=repeated, metavar=metavar, help=text)(verb)
    return verb


@click.command(epilog=_RESOURCES)
@SWEEP_FILE
@OVERRIDES
@click.option(
    "--backend",
    type=BACKEND,
    help="Default: disbatch, or local where there is no Slurm.",
)
@click.option("--slots", type=int, metavar="N", help="Runs at a time (default: one a run, at most 8).")
@click.option("--dry-run", is_flag=True, help="Print the exact sbatch text and the task file; write nothing.")
@click.option("--live", is_flag=True, help=_LIVE)
@click.option("--cold", is_flag=True, help=_COLD)
@click.option("--wait", is_flag=True, help=f"Wait for the end, show the way there: {CODES}.")
@_resource_options
def submit(
    file: Path,
    overrides: tuple[str, ...],
    backend: str | None,
    slots: int | None,
    dry_run: bool,
    live: bool,
    cold: bool,
    wait: bool,
    **resources: Any,
) -> int:
    """Submits all of a sweep file that is not done.

    Returns at once.
    """
    from gpt_opt.cli.views.submit import as_text
    from gpt_opt.dispatch.backends.limits import usable_backend
    from gpt_opt.dispatch.submit import preview
    from gpt_opt.dispatch.submit import submit as start
    from gpt_opt.sweep.json_file import read_json

    read_json(file)  # a file that is not there is said before what is wrong with the machine
    request = _request(file, overrides, usable_backend(backend, str(file)), slots, resources, live=live, cold=cold)
    if dry_run:
        print(preview(request), end="")
        return 0
    outcome = start(request)
    print(as_text(outcome))
    if not wait:
        return int(outcome.is_blocked)
    from gpt_opt.cli.views.watch import watch
    from gpt_opt.dispatch.sweep_status import gather

    found = watch(outcome.sweep, sys.stdout) if outcome.started or outcome.alive else gather(outcome.sweep)
    return found.exit_code


def _request(
    file: Path,
    overrides: tuple[str, ...],
    backend: str,
    slots: int | None,
    resources: Mapping[str, Any],
    **modes: bool,
) -> Request:
    from gpt_opt.dispatch.submit import Request
    from gpt_opt.own_app.here import app_here

    flags = {name: list(value) or None if name == "sbatch" else value for name, value in resources.items()}
    return Request(file, overrides, backend, slots, flags, app_here(), SWEEPS, **modes)


@click.command()
@click.argument(
    "target",
    help="A sweep file (.json), or a sweep: its name, name/number, or directory.",
    shell_complete=complete_sweep,
)
@click.argument("overrides", nargs=-1, help="With a sweep file: Hydra overrides for every point.")
@click.option(
    "--slots", type=int, callback=at_least(1), metavar="N", help="Runs at a time where there is no Slurm allocation."
)
@click.option("--shape", type=int, metavar="N", help="Only the runs of this shape, as status numbers them.")
@click.option("--live", is_flag=True, help=f"With a sweep file: {_LIVE[0].lower()}{_LIVE[1:]}")
@click.option("--cold", is_flag=True, help=f"With a sweep file: {_COLD[0].lower()}{_COLD[1:]}")
def drive(target: str, overrides: tuple[str, ...], slots: int | None, shape: int | None, **modes: bool) -> None:
    """Works through a sweep in this allocation, or machine."""
    from gpt_opt.dispatch.driver import drive as work
    from gpt_opt.dispatch.driver import part_to_drive
    from gpt_opt.dispatch.snapshot import enter
    from gpt_opt.dispatch.start import adopt, sweep_of_this_job
    from gpt_opt.dispatch.submit import prepare
    from gpt_opt.records.sweep_dir import find, locked
    from gpt_opt.run.outputs import work_without_readers

    work_without_readers()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    in_job = this_job().is_slurm
    if target.endswith(".json") or Path(target).is_file():
        request = _request(Path(target), overrides, "disbatch" if in_job else "local", slots, {}, **modes)
        sweep = sweep_of_this_job(SWEEPS, Path(target)) or prepare(request)
    else:
        sweep = find(target, SWEEPS)
    numbers = {"--slots": slots, "--shape": shape}
    given = [word for flag, number in numbers.items() if number is not None for word in (flag, str(number))]
    enter(sweep, ["drive", str(sweep.root), *given])
    part = part_to_drive(sweep, shape, in_job)
    if in_job:
        with locked(sweep.root.parent):
            adopt(part)
    work(part, in_job, slots)


@click.command("exec")
@click.argument("sweep", help="The sweep directory.", shell_complete=complete_sweep)
@click.argument(
    "runs",
    nargs=-1,
    metavar="[RUN]...",
    help="Run ids or indexes; none: only check this node.",
    shell_complete=complete_run,
)
def execute(sweep: str, runs: tuple[str, ...]) -> None:
    """Executes runs of a sweep in this slot.

    The lines of a task file do this.
    """
    from gpt_opt.dispatch.backends.check_in import check_in
    from gpt_opt.dispatch.slot.slot import Slot
    from gpt_opt.dispatch.snapshot import enter
    from gpt_opt.records.sweep_dir import find
    from gpt_opt.run.outputs import work_without_readers

    work_without_readers()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    target = find(sweep, SWEEPS)
    enter(target, ["exec", str(target.root), *runs])
    chosen = [target.run(name) for name in runs]
    check_in(target)
    if not chosen:
        print("ready")
        return
    if len({run.shape for run in chosen}) > 1:
        problem = f"must be runs of one shape, for one slot serves one, but are {', '.join(runs)}"
        raise ConfigError([Problem("RUN", problem, f"gptopt status {target.label} lists the shapes")])
    slot = Slot(target.part(chosen[0].shape), os.environ)
    if not slot.execute(chosen):
        raise (KeyboardInterrupt if slot.stopped_by == "SIGINT" else RunFailed)("not every run is COMPLETED")
