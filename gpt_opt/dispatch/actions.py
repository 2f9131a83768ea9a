"""Retry and cancel by the user: start these runs of a sweep again, stop those."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence

from gpt_opt.config.suggest import nearest
from gpt_opt.dispatch import slurm, snapshot
from gpt_opt.dispatch.classify import BlockedBy, Classification, retry_hints
from gpt_opt.dispatch.jobs import idle, living_jobs
from gpt_opt.dispatch.reconcile import reconcile
from gpt_opt.dispatch.stages import candidates, choose_anew, classify_runs
from gpt_opt.dispatch.start import Outcome, start_jobs
from gpt_opt.dispatch.submit import leave_out
from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.records import stop_requests
from gpt_opt.records.attempts import note_retry
from gpt_opt.records.claim import acquire
from gpt_opt.records.state import State
from gpt_opt.records.summary import supersede
from gpt_opt.records.sweep_dir import Submission, Sweep, SweepRun, locked, submissions

log = logging.getLogger(__name__)


def retry(sweep: Sweep, state: str, where: Sequence[str], only: SweepRun | None = None) -> Outcome:
    """Starts the count of attempts anew for runs that failed or were cancelled, and submits jobs for them.

    STALE runs are made anew from what is there now; their results are put aside.

    Args:
        sweep: The sweep directory.
        state: Runs in this state, as `gptopt status` shows it; of a run that is named, any that needs a retry.
        where: `key=value` overrides that a run must have, the key in full or its last part; all must hold.
        only: The run that is meant; None for all that fit.

    Raises:
        ConfigError: If no run fits, COMPLETED ones are asked for, or there is no such state, key or value.
        RunHeld: If a process works on a STALE one.
    """
    if problems := [*_state_problems(state), *_where_problems(sweep, where)]:
        raise ConfigError(problems)
    with locked(sweep.root.parent):
        reconcile(sweep)  # so that a state is the one that status shows, which asks Slurm
        items = classify_runs(sweep).items
        states = {run: item.state for run, item in items.items()}
        if only is not None:
            _require_retryable(sweep, only, items.get(only))
            state, states = items[only].state, {only: items[only].state}
        chosen = [run for run in states if states[run] == state and all(_has(run, text) for text in where)]
        if not chosen:
            counts = ", ".join(f"{number} {name}" for name, number in sorted(Counter(states.values()).items()))
            asked = " and ".join([f"state {state}", *where])
            message = f"must fit at least one run of {sweep.label}, but {asked} fits none of {counts}"
            hints = retry_hints(sweep.label, items.values()) or [f"gptopt status {sweep.label} shows its runs"]
            raise ConfigError([Problem("retry", message, "; ".join(hints))])
        submission = sweep.submission()
        if state == State.COMPLETED:
            problem = "must be a state that waits for a retry, but COMPLETED runs are kept"
            raise ConfigError([Problem("--state", problem, _anew(submission))])
        if snapshot.has_changed(sweep, submission):
            message = (
                "%s: the runs have the code that the sweep was submitted with; gptopt submit %s first takes that of now"
            )
            log.warning(message, sweep.label, submission.file or "FILE")
        if state == State.STALE and choose_anew(sweep, {run.choice for run in chosen}):
            items = classify_runs(sweep).items
            chosen = [run for run in chosen if run in items]
        for run in chosen:
            if items[run].blocked_by is BlockedBy.STALE:
                with acquire(paths := run.paths()) as claim:
                    supersede(paths, claim.attempt)
            note_retry(sweep.attempts(run))
            stop_requests.allow(sweep.control, run.run_id)
        return start_jobs(sweep)


def _anew(submission: Submission) -> str:
    """Returns how a run that is COMPLETED is made anew."""
    if submission.program.checkpoints is not None:
        return "a run whose directory is removed is made anew when the sweep is submitted again"
    return "python run_hydra.py with the overrides of a run and rerun=true trains it anew"


def _require_retryable(sweep: Sweep, run: SweepRun, item: Classification | None) -> None:
    """Refuses to start a run again that nothing keeps from being started, or that another one does.

    Raises:
        ConfigError: If so.
    """
    if item is not None and item.needs_retry:
        return
    is_done = item is not None and item.is_done
    fix = _anew(sweep.submission()) if is_done else f"gptopt status {sweep.label} says more"
    if item is not None and item.blocked_by is BlockedBy.PARENT and run.parent is not None:
        parent = Sweep(sweep.root).runs[run.parent]
        fix = f"it starts from {parent.name}: gptopt retry {sweep.label} {parent.name} frees it"
    state = "not among those that were chosen" if item is None else item.state
    raise ConfigError([Problem("RUN", f"must need a retry, but {run.name} is {state}", fix)])


def _state_problems(state: str) -> Iterator[Problem]:
    if state not in State.__members__:
        near = difflib.get_close_matches(state, State.__members__, 1)
        fix = f"did you mean {near[0]}?" if near else "gptopt status shows the state of each run"
        yield Problem("--state", f"must be one of {', '.join(State)}, but is {state!r}", fix)


def _where_problems(sweep: Sweep, where: Sequence[str]) -> Iterator[Problem]:
    """Yields what is asked for that no run of a sweep has, whatever its state."""
    for text in where:
        key, sign, _ = text.partition("=")
        if not sign:
            yield Problem("--where", f"must be KEY=VALUE, but is {text!r}")
        elif not any(_has(run, text) for run in sweep.runs):
            values = list(dict.fromkeys(value for run in sweep.runs for value in _values(run, key)))
            keys = dict.fromkeys(_override(text)[0] for run in sweep.runs for text in run.overrides)
            near = nearest(key, keys)
            fix = f"did you mean {near}?" if near else f"their keys: {', '.join(keys)}"
            fix = f"their values of {key}: {_listed(values)}" if values else fix
            yield Problem("--where", f"must be an override of runs of {sweep.label}, but none has {text}", fix)


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")


_SHOWN = 8
"""Values of a key that a message lists."""


def _override(text: str) -> tuple[str, str]:
    """Returns key and value of an override."""
    key, _, value = text.lstrip("+").partition("=")
    return key, value


def _values(run: SweepRun, key: str) -> list[str]:
    """Returns what overrides of a run give to a key, which is named in full or by its last part."""
    return [value for name, value in map(_override, run.overrides) if key in (name, name.rpartition(".")[2])]


def _has(run: SweepRun, text: str) -> bool:
    key, value = _override(text)
    return any(value in (own, own.strip("'\"")) for own in _values(run, key))


def open_runs(sweep: Sweep, run: SweepRun | None) -> list[SweepRun]:
    """Returns what a cancel would stop: `run`, or all of a sweep, without runs that are done or need a retry."""
    states = classify_runs(sweep).items
    chosen = [run] if run is not None else states
    return [item for item in chosen if item in states and not (states[item].is_done or states[item].needs_retry)]


def descendants(sweep: Sweep, runs: Sequence[SweepRun]) -> list[SweepRun]:
    """Returns the runs that have not ended and that the end of `runs` blocks: they can start from nothing else."""
    given = {run.index for run in runs}
    blocked = set(given)
    for index, parents in candidates(sweep.runs).items():
        if parents and parents <= blocked:
            blocked.add(index)
    return [run for run in open_runs(sweep, None) if run.index in blocked - given]


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
