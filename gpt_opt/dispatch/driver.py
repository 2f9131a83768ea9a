"""The driver of a sweep: hands out what is due to the slots, again and again, until nothing is due."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from types import FrameType

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.disbatch import Round, remove_stale_pipes
from gpt_opt.dispatch.backends.resources import from_record
from gpt_opt.dispatch.reconcile import settle
from gpt_opt.errors import ClaimLost, RunFailed
from gpt_opt.plan.existing import Status, status_of
from gpt_opt.records import stop_requests as control
from gpt_opt.records.attempts import CAUSES, read_history
from gpt_opt.records.claim import STALE_AFTER_S, Claim, RunHeld, acquire, read_claim
from gpt_opt.records.job_id import this_job
from gpt_opt.records.lost_nodes import forget_lost_nodes, write_lost_nodes
from gpt_opt.records.run_dir import RunFolders, RunPaths, saved_step
from gpt_opt.records.sweep_dir import Sweep, SweepRun
from gpt_opt.run.signals import WARNINGS, handled, stop_signals

log = logging.getLogger(__name__)

_HELD_POLL_S = 2.0
_DRAIN_S = 90.0


@dataclass(frozen=True)
class Due:
    """The runs of a sweep by what a driver does with them.

    Attributes:
        runnable: To be started now.
        held: Worked on by another living process.
        left: Not done, and not to be started again without the user, with the reason.
        done: COMPLETED.
    """

    runnable: tuple[SweepRun, ...]
    held: tuple[SweepRun, ...]
    left: tuple[tuple[SweepRun, str], ...]
    done: tuple[SweepRun, ...]


def due(sweep: Sweep) -> Due:
    """Sorts the runs of a sweep by their own files."""
    mem_gb = from_record(sweep.submission().resources).mem_gb
    cancelled = control.read(sweep.control).cancelled
    found: dict[str, list[SweepRun]] = {"runnable": [], "held": [], "done": []}
    left: list[tuple[SweepRun, str]] = []
    folders = RunFolders()
    for run in sweep.runs:
        status, _ = status_of(run.paths(folders))
        if status is Status.DONE:
            found["done"].append(run)
        elif status is Status.RUNNING:
            found["held"].append(run)
        elif run.run_id in cancelled:
            left.append((run, "cancelled"))
        elif (spent := read_history(sweep.attempts(run)).spent(mem_gb)) is not None:
            left.append((run, spent))
        else:
            found["runnable"].append(run)
    return Due(tuple(found["runnable"]), tuple(found["held"]), tuple(left), tuple(found["done"]))


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


def drive(sweep: Sweep, slots: int | None) -> None:
    """Works through a sweep until nothing of it is due.

    SIGTERM and the others of `signals.SIGNALS` stop handing out runs and let running ones checkpoint; after a warning
    of the time limit (SIGUSR1, SIGUSR2) the job is put back into the queue.

    Args:
        sweep: The sweep directory.
        slots: Runs at a time on this machine; None for the slots of the Slurm allocation.

    Raises:
        RunHeld: If another driver works on the sweep.
        RunFailed: If not every run is COMPLETED in the end; the message says how many are what.
    """
    session = this_job()
    stop = _Stop()
    with _claimed(sweep) as claim, handled(stop_signals(), stop.receive):
        forget_lost_nodes(sweep.lost_nodes)
        before = _progress(sweep)
        _rounds(sweep, slots, session, stop, claim)
        remove_stale_pipes()
        state = due(sweep)
        if stop.limit_near and (state.runnable or state.held) and session.is_slurm:
            if _progress(sweep) <= before:
                raise RunFailed(f"{sweep.label}: no run got a step further within the time limit; give it more time")
            log.info("time limit near: %d runs go on after a requeue", len(state.runnable) + len(state.held))
            slurm.requeue(session.job)
    _report(sweep, state)


def _progress(sweep: Sweep) -> int:
    """Returns the steps that a restart would find done."""
    folders = RunFolders()
    return sum(_steps(run.paths(folders)) for run in sweep.runs)


def _steps(paths: RunPaths) -> int:
    status, step = status_of(paths)
    return (saved_step(paths) or 0) if status is Status.FAILED else step  # which may have come further than it saved


def _claimed(sweep: Sweep) -> Claim:
    """Claims the sweep; a driver that Slurm knows to be gone is outwaited, until its claim is stale.

    Raises:
        RunHeld: If a living driver has it.
    """
    deadline, told = time.monotonic() + STALE_AFTER_S + 2 * _HELD_POLL_S, False
    while True:
        try:
            return acquire(RunPaths(sweep.root))
        except RunHeld as held:
            if is_driven(sweep) or time.monotonic() > deadline:
                raise
            if not told:
                log.info("waiting: the job of that driver has ended, but %s", held)
            told = True
            time.sleep(_HELD_POLL_S)


def is_driven(sweep: Sweep) -> bool:
    """Returns whether a driver holds the sweep that, as far as Slurm knows, still lives."""
    claim = read_claim(RunPaths(sweep.root))
    if claim is None or claim.is_over():
        return False
    if claim.job is None or not slurm.is_installed():
        return True
    try:
        starts = slurm.states([claim.job.job]).get(claim.job.job, [])
    except slurm.SlurmError:
        return True
    return not starts or starts[-1].alive


def _rounds(sweep: Sweep, slots: int | None, session: str, stop: _Stop, claim: Claim) -> None:
    together = from_record(sweep.submission().resources).runs_per_gpu or 1
    wait_until = time.monotonic() + STALE_AFTER_S
    remove_stale_pipes()
    while stop.signal is None:
        settle(sweep, session)
        state = due(sweep)
        log.info("%s: %s", sweep.label, _counts(state))
        if state.runnable:
            work = Round(sweep, state.runnable, together, session, claim.attempt, slots)
            _one_round(sweep, work, state, stop, claim)
            wait_until = time.monotonic() + STALE_AFTER_S
        elif state.held and time.monotonic() < wait_until:
            time.sleep(_HELD_POLL_S)  # its owner may be dead without our knowing yet
        else:
            return


def _one_round(sweep: Sweep, work: Round, state: Due, stop: _Stop, claim: Claim) -> None:
    before = _starts(sweep, state)
    lost: dict[str, str] = {}
    try:
        while not work.wait(1.0) and not work.is_over():
            lost = _told(sweep, work, lost)
            if not claim.is_mine():
                raise ClaimLost(f"another driver took {sweep.label} over while this one was silent; this one ends")
            if stop.signal is not None:
                log.warning("%s: runs checkpoint, nothing more is started", stop.signal.name)
                control.drain(sweep.control, claim.attempt)
                _wait_for_runs(sweep, state, work)
                return
    finally:
        work.end()
    if (problem := work.problem()) is not None:
        log.error("%s; see %s", problem, work.folder)
    if _starts(sweep, state) == before and len(due(sweep).runnable) == len(state.runnable):
        reasons = "; ".join(f"{node}: {reason}" for node, reason in work.lost_nodes().items()) or problem
        said = f" ({reasons})" if reasons else ""
        _told(sweep, work, lost)
        raise RunFailed(
            f"no slot started any run{said}; the runs are untouched, the allocation is given back; see {work.folder} "
            f"and {sweep.logs}"
        )


def _told(sweep: Sweep, work: Round, before: dict[str, str]) -> dict[str, str]:
    """Writes down which nodes have slots that do not start, when that changed; returns them."""
    lost = work.lost_nodes()
    for node in lost.keys() - before.keys():
        log.error("node %s gives no slot: %s", node, lost[node])
    if lost != before:
        write_lost_nodes(sweep.lost_nodes, lost)
    return lost


def _starts(sweep: Sweep, state: Due) -> int:
    return sum(len(read_history(sweep.attempts(run)).attempts) for run in state.runnable)


def _wait_for_runs(sweep: Sweep, state: Due, work: Round) -> None:
    """Waits until no run that was started works any more, at most `_DRAIN_S`."""
    deadline = time.monotonic() + _DRAIN_S
    while not work.wait(control.POLL_S) and time.monotonic() < deadline:
        lost = [(run, item) for run in state.runnable for item in read_history(sweep.attempts(run)).lost()]
        lost = [(run, item) for run, item in lost if item.session == work.session]
        # A slot that is gone writes no end; what counts then is whether the run itself still lives.
        if all(item.owner.is_dead() and status_of(run.paths())[0] is not Status.RUNNING for run, item in lost):
            return


def _counts(state: Due) -> str:
    parts = {"done": len(state.done), "to run": len(state.runnable), "held elsewhere": len(state.held)}
    parts["left to you"] = len(state.left)
    return ", ".join(f"{number} {name}" for name, number in parts.items() if number) or "no runs"


def _report(sweep: Sweep, state: Due) -> None:
    if len(state.done) == len(sweep.runs):
        log.info("%s: all %d runs are COMPLETED", sweep.label, len(sweep.runs))
        return
    causes = Counter(CAUSES[cause].says for _, cause in state.left)
    reasons = "; ".join(f"{number} {says}" for says, number in causes.most_common())
    hint = f"; gptopt status {sweep.label} says more"
    hint += "".join(f", {line}" for line in retry_hints(sweep, state))
    hint += ", the same command goes on with the rest" if state.runnable else ""
    raise RunFailed(f"{sweep.label}: {_counts(state)}" + (f" ({reasons})" if reasons else "") + hint)


def retry_hints(sweep: Sweep, state: Due) -> list[str]:
    """Returns the commands that start again what is left to the user."""
    cancelled = sum(cause == "cancelled" for _, cause in state.left)
    hints = [f"gptopt retry {sweep.label} starts failed ones again"] if len(state.left) > cancelled else []
    again = f"gptopt retry {sweep.label} --state CANCELLED starts cancelled ones again"
    return [*hints, again] if cancelled else hints


def local_slots(gpus: int, gpus_per_run: int | None, cpus_per_run: int | None) -> int:
    """Returns how many runs this machine takes at a time: by its GPUs, or else by the cores that a run asks for."""
    if gpus and gpus_per_run != 0:
        return max(1, gpus // (gpus_per_run or 1))
    return max(1, len(os.sched_getaffinity(0)) // cpus_per_run) if cpus_per_run else 1
