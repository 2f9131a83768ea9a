"""The driver of a sweep: hands out what is due to the slots, again and again, until nothing is due."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.disbatch import Round, remove_stale_pipes
from gpt_opt.dispatch.backends.sbatch_script import warning_s
from gpt_opt.dispatch.classify import BlockedBy, ClassifiedRuns, retry_hints
from gpt_opt.dispatch.driver_claim import POLL_S, claim_sweep
from gpt_opt.dispatch.feed import Feed
from gpt_opt.dispatch.measure import SpeedMeter
from gpt_opt.dispatch.progress import saved_steps
from gpt_opt.dispatch.reconcile import reconcile
from gpt_opt.dispatch.stages import classify_runs, decide
from gpt_opt.dispatch.start import start_ready
from gpt_opt.errors import ClaimLost, ConfigError, Problem, RunFailed, counted
from gpt_opt.plan.resources import from_record
from gpt_opt.records import stop_requests
from gpt_opt.records.attempts import CAUSES, read_history
from gpt_opt.records.claim import STALE_AFTER_S, Claim
from gpt_opt.records.drivers import driving
from gpt_opt.records.job_id import JobId, this_job
from gpt_opt.records.lost_nodes import forget_lost_nodes, write_lost_nodes
from gpt_opt.records.state import State, read_run
from gpt_opt.records.sweep_dir import Sweep, SweepRun
from gpt_opt.run.signals import WARNINGS, handled, stop_signals
from gpt_opt.sweep.model import Resources

log = logging.getLogger(__name__)

_DRAIN_S = 90.0


class _Stop:
    """What a signal asked this driver for."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def limit_near(self) -> bool:
        return self.signal in WARNINGS

    def receive(self, number: int, _: FrameType | None) -> None:
        if self.signal is None or self.limit_near:
            self.signal = signal.Signals(number)


def part_to_drive(sweep: Sweep, shape: int | None, in_job: bool) -> Sweep:
    """Returns what a driver works through: the part with a shape; without one all of the sweep, on this machine.

    Raises:
        ConfigError: If no run has that shape, or an allocation shall serve several.
    """
    shapes = [part.shape for part in sweep.parts()]
    listed = ", ".join(map(str, shapes))
    if shape is not None and shape in shapes:
        return sweep.part(shape)
    if shape is not None:
        problem = f"must be a shape that runs of {sweep.label} have, {listed}, but is {shape}"
        raise ConfigError([Problem("--shape", problem)], ", nothing was started")
    if in_job and len(shapes) > 1:
        problem = f"must be given in a Slurm job, for one allocation serves one shape, and {sweep.label} has {listed}"
        fix = f"gptopt drive {sweep.label} --shape {shapes[0]}; gptopt status {sweep.label} says what each needs"
        raise ConfigError([Problem("--shape", problem, fix)], ", nothing was started")
    return sweep


def drive(sweep: Sweep, in_job: bool, slots: int | None = None) -> None:
    """Works through a sweep, or a part of it, until nothing of it is due; one shape after the other.

    SIGTERM and the others of `signals.SIGNALS` stop handing out runs and let running ones checkpoint; after a warning
    of the time limit (SIGUSR1, SIGUSR2) the job is put back into the queue.

    Args:
        sweep: The sweep directory, or a part of it: an allocation serves one shape.
        in_job: Whether the slots are those of the Slurm allocation, else of this machine.
        slots: Runs at a time on this machine, whatever the submission says.

    Raises:
        RunHeld: If another driver works on the sweep.
        RunFailed: If not every run is COMPLETED in the end; the message says how many are what.
    """
    stop = _Stop()
    with ExitStack() as held, handled(stop_signals(), stop.receive):
        claims = []
        for part in sweep.parts():
            claim = claim_sweep(part, lambda: stop.signal is not None)
            if claim is not None:
                claims.append((part, held.enter_context(claim)))
        before = saved_steps(sweep) if claims else None
        for part, _ in claims:
            forget_lost_nodes(part.lost_nodes)
        while True:
            left = False
            for part, claim in claims:
                at_a_time = runs_at_a_time(part, in_job, slots)
                with driving(part.drivers, this_job(), part.shape or 0, at_a_time):
                    left |= _rounds(part, at_a_time, in_job, stop, claim)
            runs = classify_runs(sweep)
            # For another sweep a machine waits, which costs nothing meanwhile.
            waits = not in_job and runs.locked and runs.waiting_for_others
            if stop.signal is not None or left or not (runs.due or waits):
                break  # else a retry may be of a shape that was worked through before
        remove_stale_pipes()
        if left or (stop.limit_near and (runs.due or runs.locked) and this_job().is_slurm):
            if stop.limit_near and before is not None and saved_steps(sweep) <= before:
                raise RunFailed(f"{sweep.label}: no run got a step further within the time limit; give it more time")
            why = "the next allocation, for which they are left" if left else "a requeue, as the time limit is near"
            log.info("%s to go on with after %s", counted(len(runs.due) + len(runs.locked), "run"), why)
            try:
                slurm.requeue(this_job().job)
            except slurm.SlurmError as error:  # as of an interactive allocation, or under --no-requeue
                log.error("Slurm does not put this job back into the queue: %s", error)
    if stop.signal is None:
        start_ready(sweep)  # what has become ready since; who finds this driver alive leaves it that
    try:
        _report(sweep, runs)
    except RunFailed as left:
        if stop.signal is signal.SIGINT:
            raise KeyboardInterrupt(str(left)) from left
        raise


def runs_at_a_time(part: Sweep, in_job: bool, slots: int | None) -> int:
    """Returns how many runs a driver has slots for: those of the Slurm allocation, or of this machine."""
    needs = part.needs()
    if in_job and (tasks := os.environ.get("SLURM_NTASKS", "")).isdecimal():
        return int(tasks) * (from_record(needs.resources).runs_per_gpu or 1)
    return slots or needs.slots or 1


def _rounds(sweep: Sweep, at_a_time: int, in_job: bool, stop: _Stop, claim: Claim) -> bool:
    """Works through a part of a sweep; returns whether all that is due then is left for the next allocation."""
    incarnation, resources = this_job(), from_record(sweep.needs().resources)
    driver = stop_requests.driver_name(sweep.shape, claim.attempt)
    meter = SpeedMeter(sweep)
    wait_until = time.monotonic() + STALE_AFTER_S
    remove_stale_pipes()
    while stop.signal is None:
        reconcile(sweep, incarnation)
        decide(sweep)
        runs = classify_runs(sweep)
        log.info("%s: %s", sweep.label, _counts(runs))
        meter.set_end(_end_of_slots(resources) if in_job else None)
        if runs.due and all(map(meter.too_late_for, runs.due)) and _is_new(sweep, incarnation):
            meter.set_end(None)  # or one allocation after the other would go by, where slots start slowly
        if any(not meter.too_late_for(run) for run in runs.due):
            work = Round(sweep, resources, incarnation, driver, at_a_time, in_job)
            _one_round(sweep, Feed(sweep, work, runs.due, meter), work, stop, claim)
            wait_until = time.monotonic() + STALE_AFTER_S
        elif runs.locked and time.monotonic() < wait_until:
            time.sleep(POLL_S)  # its owner may be dead without our knowing yet
        else:
            meter.write(left=runs.due)
            return bool(runs.due)
    return False


def _is_new(sweep: Sweep, incarnation: JobId) -> bool:
    """Returns whether no slot of a driver has begun a run yet."""
    histories = (read_history(sweep.attempts(run)) for run in sweep.runs)
    return not any(attempt.session == incarnation for history in histories for attempt in history.attempts)


def _end_of_slots(resources: Resources) -> float | None:
    """Returns when the runs of this Slurm job will be warned of its end, in seconds since 1970; None for no end."""
    try:
        left_s = slurm.time_left_s(this_job().job)
    except slurm.SlurmError as error:
        log.warning("when the allocation ends is not known now: %s", error)
        return None
    return None if left_s is None else time.time() + left_s - warning_s(resources)


def _one_round(sweep: Sweep, feed: Feed, work: Round, stop: _Stop, claim: Claim) -> None:
    due = [*feed.runs]
    before = _attempts(sweep, due)
    lost: dict[str, str] = {}
    try:
        while not work.wait(1.0) and not work.is_over():
            lost = _record_lost_nodes(sweep, work, lost)
            feed.go_on()
            if not claim.is_mine():
                raise ClaimLost(f"another driver took {sweep.label} over while this one was silent; this one ends")
            if stop.signal is not None:
                log.warning("%s: runs checkpoint, nothing more is started", stop.signal.name)
                stop_requests.drain(sweep.control, stop_requests.driver_name(sweep.shape, claim.attempt))
                _wait_for_runs(sweep, feed.given, work)
                return
    finally:
        work.end()
    if (problem := work.problem()) is not None:
        log.error("%s; see %s", problem, work.folder)
    if not feed.is_late and _attempts(sweep, due) == before and len(classify_runs(sweep).due) == len(feed.runs):
        reasons = "; ".join(f"{node}: {reason}" for node, reason in work.lost_nodes().items()) or problem
        because = f" ({reasons})" if reasons else ""
        _record_lost_nodes(sweep, work, lost)
        raise RunFailed(
            f"no slot started any run{because}; the runs are untouched, the allocation is given back; "
            f"see {work.folder} and {sweep.logs}"
        )


def _record_lost_nodes(sweep: Sweep, work: Round, before: dict[str, str]) -> dict[str, str]:
    """Writes down which nodes have slots that do not start, when that changed; returns them."""
    lost = work.lost_nodes()
    for node in lost.keys() - before.keys():
        log.error("node %s gives no slot: %s", node, lost[node])
    if lost != before:
        write_lost_nodes(sweep.lost_nodes, lost)
    return lost


def _attempts(sweep: Sweep, runs: Sequence[SweepRun]) -> int:
    return sum(len(read_history(sweep.attempts(run)).attempts) for run in runs)


def _wait_for_runs(sweep: Sweep, due: Sequence[SweepRun], work: Round) -> None:
    """Waits until no run that was started is running any more, at most `_DRAIN_S`."""
    deadline = time.monotonic() + _DRAIN_S
    while not work.wait(stop_requests.POLL_S) and time.monotonic() < deadline:
        lost = [(run, item) for run in due for item in read_history(sweep.attempts(run)).lost()]
        lost = [(run, item) for run, item in lost if item.session == work.session]
        # A slot that was killed writes no end; what counts then is whether the run itself is alive.
        if all(item.owner.is_dead() and read_run(run.paths()).state is not State.RUNNING for run, item in lost):
            return


def _counts(runs: ClassifiedRuns) -> str:
    return runs.counts(BlockedBy.LOCK) or "no runs"


def _report(sweep: Sweep, runs: ClassifiedRuns) -> None:
    if len(runs.done) == len(runs.items):
        log.info("%s: all %d runs are COMPLETED", sweep.label, len(runs.items))
        return
    elsewhere = runs.where(lambda item: item.blocked_by is BlockedBy.WAIT or item.is_due)
    if sweep.shape is not None and len(runs.done) + len(elsewhere) == len(runs.items) and not runs.due:
        log.info("%s: %s", sweep.label, _counts(runs))  # they start from runs of another shape, in jobs of their own
        return
    failed = runs.where(lambda item: item.needs_retry and item.blocked_by is not BlockedBy.STALE)
    causes = Counter(CAUSES[runs.items[run].cause or "exception"].message for run in failed)
    reasons = "; ".join(f"{number} {message}" for message, number in causes.most_common())
    hint = f"; gptopt status {sweep.label} says more"
    hint += "".join(f", {line}" for line in retry_hints(sweep.label, runs.items.values()))
    hint += ", the same command goes on with the rest" if runs.due else ""
    raise RunFailed(f"{sweep.label}: {_counts(runs)}" + (f" ({reasons})" if reasons else "") + hint)
