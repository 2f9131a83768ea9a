"""Retry and cancel by the user: start these runs of a sweep again, stop those."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from gpt_opt.dispatch import slurm, snapshot
from gpt_opt.dispatch.jobs import idle, living_jobs
from gpt_opt.dispatch.reconcile import reconcile
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.dispatch.submit import Outcome, leave_out, start_jobs
from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.records import stop_requests
from gpt_opt.records.attempts import note_retry
from gpt_opt.records.sweep_dir import Sweep, SweepRun, locked, submissions

log = logging.getLogger(__name__)


def retry(sweep: Sweep, state: str, where: Sequence[str]) -> Outcome:
    """Starts the count of attempts anew for runs that failed or were cancelled, and submits jobs for them.

    Args:
        sweep: The sweep directory.
        state: Runs in this state, as `gptopt status` shows it.
        where: `key=value` overrides that a run must have, the key in full or its last part; all must hold.

    Raises:
        ConfigError: If no run fits.
    """
    for text in where:
        if "=" not in text:
            raise ConfigError([Problem("--where", f"must be KEY=VALUE, but is {text!r}")])
    with locked(sweep.root.parent):
        reconcile(sweep)  # so that a state is the one that status shows, which asks Slurm
        states = {run: item.state for run, item in classify_runs(sweep).items.items()}
        chosen = [run for run in sweep.runs if states[run] == state and all(_has(run, text) for text in where)]
        if not chosen:
            counts = ", ".join(f"{number} {name}" for name, number in sorted(Counter(states.values()).items()))
            asked = " and ".join([f"state {state}", *where])
            message = f"must fit at least one run of {sweep.label}, but {asked} fits none; there are {counts}"
            raise ConfigError([Problem("retry", message)])
        submission = sweep.submission()
        if snapshot.has_changed(sweep, submission):
            message = (
                "%s: the runs have the code that the sweep was submitted with; gptopt submit %s first takes that of now"
            )
            log.warning(message, sweep.label, submission.file or "FILE")
        for run in chosen:
            note_retry(sweep.attempts(run))
            stop_requests.allow(sweep.control, run.run_id)
        return start_jobs(sweep)


def _has(run: SweepRun, text: str) -> bool:
    key, _, value = text.partition("=")
    for override in run.overrides:
        name, _, own = override.lstrip("+").partition("=")
        if key in (name, name.rpartition(".")[2]) and value in (own, own.strip("'\"")):
            return True
    return False


def open_runs(sweep: Sweep, run: SweepRun | None) -> list[SweepRun]:
    """Returns what a cancel would stop: `run`, or all of a sweep, without runs that are done or need a retry."""
    states = classify_runs(sweep).items
    chosen = [run] if run is not None else sweep.runs
    return [item for item in chosen if not (states[item].is_done or states[item].needs_retry)]


def cancel(sweep: Sweep, runs: Sequence[SweepRun]) -> None:
    """Stops runs: running ones checkpoint first, the others are not started; jobs left without work are withdrawn."""
    stopped = {run.run_id for run in runs}
    for sibling in submissions(sweep.root.parent, leave_out):  # an earlier one may run the same runs
        for run_id in stopped & {run.run_id for run in sibling.runs}:
            stop_requests.cancel(sibling.control, run_id)
    open_still = open_runs(sweep, None)
    try:
        living = living_jobs(sweep)
    except slurm.SlurmError as error:
        message = (
            f"running runs were asked to stop, but waiting jobs cannot be withdrawn now: {error}; cancel again later"
        )
        raise GptOptError(message) from error
    ids = [job.id for job in idle(living, open_still)]
    states = slurm.states(ids)
    slurm.cancel([name for name in ids if name in states and states[name][-1].state == "PENDING"])
