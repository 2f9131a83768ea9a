"""The user's word on runs of a sweep: start these again, stop those."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gpt_opt.dispatch import slurm, snapshot
from gpt_opt.dispatch.backends.base import living_jobs
from gpt_opt.dispatch.driver import due
from gpt_opt.dispatch.submit import Outcome, start_jobs
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.records import stop_requests as control
from gpt_opt.records.attempts import note_retry
from gpt_opt.records.sweep_dir import Sweep, SweepRun, locked, numbers

log = logging.getLogger(__name__)


def retry(sweep: Sweep, state: str, where: Sequence[str]) -> Outcome:
    """Takes the failures of runs off the count and submits jobs for them.

    Args:
        sweep: The sweep directory.
        state: Runs in this state, in the words of `gptopt status`.
        where: `key=value` overrides that a run must have, the key in full or its last part; all must hold.

    Raises:
        ConfigError: If no run is meant.
    """
    states = {item.run.run_id: item.state for item in gather(sweep, ask_slurm=False).runs}
    chosen = [run for run in sweep.runs if states[run.run_id] == state and all(_has(run, text) for text in where)]
    if not chosen:
        counts = ", ".join(f"{list(states.values()).count(name)} {name}" for name in sorted(set(states.values())))
        asked = " and ".join([f"state {state}", *where])
        message = f"must fit at least one run of {sweep.label}, but {asked} fits none; there are {counts}"
        raise ConfigError([Problem("retry", message)])
    submission = sweep.submission()
    if snapshot.has_changed(sweep, submission):
        message = (
            "%s: the runs have the code that the sweep was submitted with; gptopt submit %s first takes that of now"
        )
        log.warning(message, sweep.label, submission.file or "FILE")
    with locked(sweep.root.parent):
        for run in chosen:
            note_retry(sweep.attempts(run))
            control.allow(sweep.control, run.run_id)
        return start_jobs(sweep)


def _has(run: SweepRun, text: str) -> bool:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError([Problem("--where", f"must be KEY=VALUE, but is {text!r}")])
    for override in run.overrides:
        name, _, own = override.lstrip("+").partition("=")
        if key in (name, name.rpartition(".")[2]) and value in (own, own.strip("'\"")):
            return True
    return False


def open_runs(sweep: Sweep, run: SweepRun | None) -> list[SweepRun]:
    """Returns what a cancel would stop: `run`, or all of a sweep, less what is over already."""
    state = due(sweep)
    over = {item.run_id for item in (*state.done, *(item for item, _ in state.left))}
    return [item for item in ([run] if run is not None else sweep.runs) if item.run_id not in over]


def cancel(sweep: Sweep, runs: Sequence[SweepRun]) -> None:
    """Stops runs: those at work checkpoint first, the others are not started; jobs left without work are withdrawn."""
    stopped = {run.run_id for run in runs}
    for number in numbers(sweep.root.parent):  # an earlier submission may be at work on the same runs
        sibling = Sweep(sweep.root.parent / str(number))
        for run_id in stopped & {run.run_id for run in sibling.runs}:
            control.cancel(sibling.control, run_id)
    open_still = {run.index for run in open_runs(sweep, None)}
    try:
        living = living_jobs(sweep)
    except slurm.SlurmError as error:
        message = (
            f"runs at work were asked to stop, but jobs that wait cannot be withdrawn now: {error}; cancel again then"
        )
        raise GptOptError(message) from error
    idle = [job for job in living if not open_still & set(job.runs if job.runs is not None else open_still)]
    ids = [job.id for job in idle]
    states = slurm.states(ids)
    slurm.cancel([name for name in ids if name in states and states[name][-1].state == "PENDING"])
