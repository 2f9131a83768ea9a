"""The driver of a sweep: hands out what is due to the slots, again and again, until nothing is due."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.disbatch import Round, remove_stale_pipes
from gpt_opt.dispatch.classify import BlockedBy, ClassifiedRuns, retry_hints
from gpt_opt.dispatch.driver_claim import POLL_S, claim_sweep
from gpt_opt.dispatch.progress import saved_steps
from gpt_opt.dispatch.reconcile import reconcile
from gpt_opt.dispatch.stages import classify_runs, decide, hopes
from gpt_opt.dispatch.start import start_ready
from gpt_opt.errors import ClaimLost, ConfigError, Problem, RunFailed
from gpt_opt.plan.resources import from_record
from gpt_opt.records import stop_requests
from gpt_opt.records.attempts import CAUSES, read_history
from gpt_opt.records.claim import STALE_AFTER_S, Claim
from gpt_opt.records.job_id import this_job
from gpt_opt.records.lost_nodes import forget_lost_nodes, write_lost_nodes
from gpt_opt.records.state import State, read_run
from gpt_opt.records.sweep_dir import Sweep, SweepRun
from gpt_opt.run.signals import WARNINGS, handled, stop_signals

log = logging.getLogger(__name__)

_DRAIN_S = 90.0

_SHARE = 4.0
"""A driver waits so many times as long as it takes to read a sweep before it reads it again."""


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
            for part, claim in claims:
                _rounds(part, None if in_job else slots or part.needs().slots or 1, stop, claim)
            runs = classify_runs(sweep)
            waits = (
                not in_job and runs.locked and runs.waiting_for_others
            )  # for another sweep: a machine costs nothing meanwhile
            if stop.signal is not None or not (runs.due or waits):  # a retry may be of a shape worked through before
                break
        remove_stale_pipes()
        if stop.limit_near and (runs.due or runs.locked) and this_job().is_slurm:
            if before is not None and saved_steps(sweep) <= before:
                raise RunFailed(f"{sweep.label}: no run got a step further within the time limit; give it more time")
            log.info("time limit near: %d runs go on after a requeue", len(runs.due) + len(runs.locked))
            slurm.requeue(this_job().job)
    if stop.signal is None:
        start_ready(sweep)  # what has become ready since; who finds this driver alive leaves it that
    _report(sweep, runs)


def _rounds(sweep: Sweep, slots: int | None, stop: _Stop, claim: Claim) -> None:
    incarnation, resources = this_job(), from_record(sweep.needs().resources)
    driver = stop_requests.driver_name(sweep.shape, claim.attempt)
    wait_until = time.monotonic() + STALE_AFTER_S
    remove_stale_pipes()
    while stop.signal is None:
        reconcile(sweep, incarnation)
        decide(sweep)
        runs = classify_runs(sweep)
        log.info("%s: %s", sweep.label, _counts(runs))
        if runs.due:
            work = Round(sweep, resources, incarnation, driver, slots)
            _one_round(sweep, _Feed(sweep, work, runs.due), work, stop, claim)
            wait_until = time.monotonic() + STALE_AFTER_S
        elif runs.locked and time.monotonic() < wait_until:
            time.sleep(POLL_S)  # its owner may be dead without our knowing yet
        else:
            return


class _Feed:
    """Hands out the runs of a round: those that are due, then, in a sweep with stages, those that become ready.

    Args:
        sweep: The part of the sweep that is worked through.
        work: The round.
        due: What is due at its start.
    """

    def __init__(self, sweep: Sweep, work: Round, due: Sequence[SweepRun]) -> None:
        self.given = [*due]
        self._sweep, self._work = sweep, work
        self._hopes = hopes(Sweep(sweep.root).runs) if sweep.submission().stages else {}
        self._elsewhere: frozenset[int] = frozenset()
        self._wait_until = 0.0
        work.feed(due, is_last=not self._hopes)

    def go_on(self) -> None:
        """Hands out what has become ready; ends the round's list when nothing more can."""
        if not self._hopes or time.monotonic() < self._wait_until:
            return
        began = time.monotonic()
        decide(self._sweep)
        runs = classify_runs(Sweep(self._sweep.root))
        if self._work.is_open:
            self._feed(runs)
        self._start_elsewhere(runs)
        self._wait_until = time.monotonic() + _SHARE * (time.monotonic() - began)  # a large sweep takes long to read

    def _feed(self, runs: ClassifiedRuns) -> None:
        known, own = {run.run_id for run in self.given}, [run for run in runs.items if run.shape == self._sweep.shape]
        ready = [run for run in own if runs.items[run].is_due and run.run_id not in known]
        self.given += ready
        at_work = self._work.at_work() | {run.index for run in ready}
        waiting = (run for run in own if runs.items[run].blocked_by is BlockedBy.WAIT)
        self._work.feed(ready, is_last=not any(at_work & self._hopes[run.index] for run in waiting))

    def _start_elsewhere(self, runs: ClassifiedRuns) -> None:
        """Submits jobs for runs of other shapes that have become ready, once each."""
        ready = frozenset(run.index for run in runs.due if run.shape != self._sweep.shape)
        if ready - self._elsewhere:
            self._elsewhere |= ready
            start_ready(self._sweep)


def _one_round(sweep: Sweep, feed: _Feed, work: Round, stop: _Stop, claim: Claim) -> None:
    due = feed.given
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
                _wait_for_runs(sweep, due, work)
                return
    finally:
        work.end()
    if (problem := work.problem()) is not None:
        log.error("%s; see %s", problem, work.folder)
    if _attempts(sweep, due) == before and len(classify_runs(sweep).due) == len(due):
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
