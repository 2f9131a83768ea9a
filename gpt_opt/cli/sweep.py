"""The verbs that start runs and look after them: submit, drive, exec, status, logs, retry, cancel, doctor."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_opt.cli.plan import ROOT, fill_registries
from gpt_opt.errors import ConfigError, GptOptError, Problem, RunFailed
from gpt_opt.records.job_id import JobId, this_job

if TYPE_CHECKING:
    from gpt_opt.dispatch.submit import Outcome, Request
    from gpt_opt.records.sweep_dir import Sweep, SweepRun

SWEEPS = Path("sweeps")
"""Where sweep directories lie, relative to the working directory."""

_CODES = (
    "0 all runs are done, 1 a run failed or something else waits for you, 3 still at work and nothing failed so far"
)

_SWEEP = "a sweep: its name, name/number, or directory"


_LIVE = "jobs import from this repository as it is then, not from a snapshot of what it is now"


def add_verbs(verbs: Any) -> None:
    """Adds the verbs to the subparsers `verbs`."""
    _add_submit(verbs)
    drive = _verb(verbs, "drive", _drive, "work through a sweep in this allocation, or on this machine")
    drive.add_argument("target", help="a sweep file (.json), or a sweep: its name, name/number, or directory")
    drive.add_argument("overrides", nargs="*", help="with a sweep file: Hydra overrides for every point")
    drive.add_argument("--slots", type=int, metavar="N", help="runs at a time where there is no Slurm allocation")
    drive.add_argument("--shape", type=int, metavar="N", help="only the runs of this shape, as status numbers them")
    drive.add_argument("--live", action="store_true", help=f"with a sweep file: {_LIVE}")
    execute = _verb(verbs, "exec", _exec, "execute runs of a sweep in this slot; the lines of a task file do this")
    execute.add_argument("sweep", help="the sweep directory")
    execute.add_argument("runs", nargs="*", metavar="RUN", help="run ids or indices; none: only check this node")
    status = _verb(verbs, "status", _status, "say how the runs of a sweep are doing")
    status.epilog = f"Exit codes: {_CODES}."
    status.add_argument("sweep", nargs="?", help=f"{_SWEEP}; by default the last one submitted")
    status.add_argument("--watch", action="store_true", help="keep it up to date until nothing runs any more")
    status.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    logs = _verb(verbs, "logs", _logs, "print what a run, or the driver, said")
    logs.add_argument("sweep", help=_SWEEP)
    logs.add_argument("name", nargs="?", metavar="RUN", help="index or id of a run; without it, the driver's log")
    logs.add_argument("-f", "--follow", action="store_true", help="go on printing until the run ends")
    retry = _verb(verbs, "retry", _retry, "start runs again that failed or were cancelled")
    retry.add_argument("sweep", help=_SWEEP)
    retry.add_argument("--state", default="FAILED", help="state to start again, as status shows it (default: FAILED)")
    retry.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this value")
    cancel = _verb(verbs, "cancel", _cancel, "stop runs, each with a checkpoint")
    cancel.add_argument("sweep", help=_SWEEP)
    cancel.add_argument("name", nargs="?", metavar="RUN", help="index or id of a run; without it, all of them")
    cancel.add_argument("--yes", action="store_true", help="do not ask")
    doctor = _verb(verbs, "doctor", _doctor, "say what of Slurm, GPUs and the rest works here, and what to do")
    doctor.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def _verb(
    verbs: Any, name: str, function: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=function, parser=parser)
    return parser


def _add_submit(verbs: Any) -> None:
    submit = _verb(verbs, "submit", _submit, "submit everything of a sweep file that is not done; returns at once")
    submit.add_argument("file", type=Path, help="the sweep file, for example params/beta_sweep.json")
    submit.add_argument("overrides", nargs="*", help="Hydra overrides for every point, applied last: seed=1")
    submit.add_argument(
        "--backend",
        choices=("disbatch", "submitit", "local"),
        help="default: disbatch, or local where there is no Slurm",
    )
    submit.add_argument("--slots", type=int, metavar="N", help="runs at a time (default: one a run, at most 8)")
    submit.add_argument(
        "--dry-run", action="store_true", help="print the exact sbatch text and the task file; write nothing"
    )
    submit.add_argument("--live", action="store_true", help=_LIVE)
    submit.add_argument("--wait", action="store_true", help=f"wait for the end, show the way there: {_CODES}")
    group = submit.add_argument_group("what one run needs (beats the sweep file and the config group resources)")
    types: dict[str, type] = {
        "mem_gb": float,
        "partition": str,
        "qos": str,
        "account": str,
        "constraint": str,
        "exclude": str,
    }
    from gpt_opt.sweep.model import Resources

    for item in fields(Resources):
        flag = f"--{item.name.replace('_', '-')}"
        if item.name == "sbatch":
            group.add_argument(
                flag,
                action="append",
                metavar="OPTION",
                help=f"{item.metadata['doc']}; may be repeated: {flag}=--reservation=lab",
            )
        else:
            group.add_argument(flag, type=types.get(item.name, int), metavar="X", help=item.metadata["doc"])


def _request(options: argparse.Namespace, backend: str, slots: int | None) -> Request:
    from gpt_opt.dispatch.submit import Request
    from gpt_opt.sweep.model import Resources

    fill_registries()
    flags = {item.name: getattr(options, item.name, None) for item in fields(Resources)}
    return Request(options.file, tuple(options.overrides), backend, slots, flags, ROOT, SWEEPS, options.live)


def _submit(options: argparse.Namespace) -> int:
    from gpt_opt.dispatch import slurm
    from gpt_opt.dispatch.submit import preview, submit
    from gpt_opt.sweep.json_file import read_json

    read_json(options.file)  # a file that is not there is said before what is wrong with the machine
    backend = options.backend or ("disbatch" if slurm.is_installed() else "local")
    if backend != "local" and not slurm.is_installed():
        message = f"is {backend}, which needs Slurm, but sbatch is not on the path"
        raise ConfigError([Problem("--backend", message, "use --backend local, or see gptopt doctor")])
    request = _request(options, backend, options.slots)
    if backend != "local" and (reason := slurm.problem()) is not None:
        message = f"is {backend}, but Slurm, which is installed, does not work here: {reason}"
        fix = f"mend that, or run the sweep on this machine: gptopt submit {options.file} --backend local"
        raise ConfigError([Problem("--backend", message, fix)], ", nothing was submitted")
    if options.dry_run:
        print(preview(request), end="")
        return 0
    outcome = submit(request)
    print(_told(outcome))
    if not options.wait:
        return 0
    from gpt_opt.cli.views.status import watch
    from gpt_opt.dispatch.sweep_status import gather

    found = watch(outcome.sweep, sys.stdout) if outcome.started or outcome.alive else gather(outcome.sweep)
    return found.exit_code


def _told(outcome: Outcome) -> str:
    runs, sweep = outcome.runs, outcome.sweep
    numbers = {"done": runs.done, "to run": runs.due, "running": runs.locked, "need a retry": runs.needs_retry}
    counts = ", ".join(f"{len(found)} {name}" for name, found in numbers.items() if found)
    lines = [f"sweep {sweep.label}: {len(sweep.runs)} runs ({counts})"]
    ids = list(dict.fromkeys(JobId(job.id).array for job in outcome.started))
    if outcome.started:
        lines.append(f"submitted job {', '.join(ids)}" if not ids[0].startswith("local") else f"started {ids[0]}")
    if outcome.alive:
        alive = sorted({JobId(job.id).array for job in outcome.alive})
        lines.append(f"at work already: job {', '.join(alive)}")
    if not outcome.started and not outcome.alive:
        lines.append("nothing to submit")
    if runs.needs_retry:
        from gpt_opt.dispatch.driver import retry_hints

        lines += [f"{len(runs.needs_retry)} failed or cancelled runs are not started again", *retry_hints(sweep, runs)]
    lines.append(f"gptopt status {sweep.label}")
    return "\n".join(lines)


def _drive(options: argparse.Namespace) -> None:
    from gpt_opt.dispatch.driver import drive, part_to_drive
    from gpt_opt.dispatch.snapshot import enter
    from gpt_opt.dispatch.submit import adopt, prepare, sweep_of_this_job
    from gpt_opt.records.sweep_dir import find, locked
    from gpt_opt.run.outputs import work_without_readers

    work_without_readers()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    if options.slots is not None and options.slots < 1:
        options.parser.error(f"--slots must be at least 1, but is {options.slots}")
    in_job = this_job().is_slurm
    given = [] if options.slots is None else ["--slots", str(options.slots)]
    given += [] if options.shape is None else ["--shape", str(options.shape)]
    if options.target.endswith(".json") or Path(options.target).is_file():
        options.file = Path(options.target)
        request = _request(options, "disbatch" if in_job else "local", options.slots)
        sweep = sweep_of_this_job(SWEEPS, options.file) or prepare(request)
    else:
        sweep = find(options.target, SWEEPS)
    enter(sweep, ["drive", str(sweep.root), *given])
    sweep = part_to_drive(sweep, options.shape, in_job)
    if in_job:
        with locked(sweep.root.parent):
            adopt(sweep)
    drive(sweep, in_job, options.slots)


def _exec(options: argparse.Namespace) -> None:
    from gpt_opt.dispatch.backends.check_in import check_in
    from gpt_opt.dispatch.slot.slot import Slot
    from gpt_opt.dispatch.snapshot import enter
    from gpt_opt.records.sweep_dir import find
    from gpt_opt.run.outputs import work_without_readers

    work_without_readers()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sweep = find(options.sweep, SWEEPS)
    enter(sweep, ["exec", str(sweep.root), *options.runs])
    runs = [sweep.run(name) for name in options.runs]
    check_in(sweep)
    if not runs:
        print("ready")
    elif not Slot(sweep.part(runs[0].shape), os.environ).execute(runs):
        raise RunFailed("not every run is COMPLETED")


def _status(options: argparse.Namespace) -> int:
    from gpt_opt.cli.views import status as show_status
    from gpt_opt.dispatch.sweep_status import gather
    from gpt_opt.records.sweep_dir import find
    from gpt_opt.table import terminal_width

    sweep = find(options.sweep, SWEEPS)
    if options.watch:
        return show_status.watch(sweep, sys.stdout).exit_code
    status = gather(sweep)
    if options.json:
        print(json.dumps(show_status.as_record(status), indent=2))
    else:
        print(show_status.as_text(status, terminal_width(sys.stdout)))
    return status.exit_code


def _logs(options: argparse.Namespace) -> None:
    from gpt_opt.cli.views import logs
    from gpt_opt.records.sweep_dir import find

    sweep = find(options.sweep, SWEEPS)
    logs.show(sweep, None if options.name is None else sweep.run(options.name), options.follow, sys.stdout)


def _retry(options: argparse.Namespace) -> None:
    from gpt_opt.dispatch.actions import retry
    from gpt_opt.records.sweep_dir import find

    print(_told(retry(find(options.sweep, SWEEPS), options.state.upper(), options.where)))


def _cancel(options: argparse.Namespace) -> None:
    from gpt_opt.dispatch.actions import cancel, open_runs
    from gpt_opt.records.sweep_dir import find

    sweep = find(options.sweep, SWEEPS)
    runs = open_runs(sweep, None if options.name is None else sweep.run(options.name))
    if not runs:
        print(f"nothing to cancel: no run of {sweep.label} that was meant is waiting or at work")
        return
    if not options.yes and not _agrees(sweep, runs):
        raise GptOptError("nothing was cancelled")
    cancel(sweep, runs)
    number = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    print(f"cancelled {number} of {sweep.label}; what is at work checkpoints first and ends within a minute")


def _agrees(sweep: Sweep, runs: list[SweepRun]) -> bool:
    if not sys.stdin.isatty():
        raise GptOptError("cancel asks before it stops runs, but there is no terminal to ask at; add --yes")
    try:
        return input(f"stop {len(runs)} runs of {sweep.label}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def _doctor(options: argparse.Namespace) -> None:
    from gpt_opt.dispatch import doctor

    checks = doctor.checks()
    print(json.dumps(doctor.as_record(checks), indent=2) if options.json else doctor.as_text(checks))
    if any(check.ok is False for check in checks):
        raise GptOptError("something that is needed does not work here; see above")
