"""The driver of a sweep: hands out what is due to the slots, again and again, until nothing is due."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from gpt_opt.dispatch import control, slurm
from gpt_opt.dispatch.attempts import CAUSES, note_end, read_history
from gpt_opt.dispatch.disbatch import Round, remove_stale_pipes
from gpt_opt.dispatch.resources import from_record
from gpt_opt.dispatch.sweepdir import Sweep, SweepRun
from gpt_opt.errors import RunFailed
from gpt_opt.plan.existing import Status, status_of
from gpt_opt.run.claim import STALE_AFTER_S, acquire
from gpt_opt.run.paths import RunFolders, RunPaths

log = logging.getLogger(__name__)

_HELD_POLL_S = 2.0


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


def settle(sweep: Sweep, session: str) -> None:
    """Gives every attempt that was lost with its slot an end, and the cause that Slurm knows.

    Args:
        sweep: The sweep.
        session: Of this driver: what it lost in a round that is over, it lost with a slot.
    """
    lost = [(run, item) for run in sweep.runs for item in read_history(sweep.attempts(run)).lost()]
    lost = [(run, item) for run, item in lost if status_of(run.paths())[0] is not Status.RUNNING]
    jobs = {
        item.session.rpartition(".")[0] for _, item in lost if item.session and not item.session.startswith("local")
    }
    known = _ends(sorted(jobs)) if jobs and slurm.is_installed() else {}
    for run, item in lost:
        if status_of(run.paths())[0] is Status.DONE:
            cause = "completed"
        elif item.session == session or item.session is None:
            cause = "slot_lost" if not item.owner.is_dead() or item.session else "killed"
        else:
            job, _, restart = item.session.rpartition(".")
            ends = known.get(job, [])
            cause = ends[int(restart)] if restart.isdigit() and int(restart) < len(ends) else "slot_lost"
        note_end(sweep.attempts(run), item.id, cause)


def _ends(jobs: list[str]) -> dict[str, list[str]]:
    """Returns for each job the causes of the ends of its starts, oldest first."""
    try:
        states = slurm.states(jobs)
    except slurm.SlurmError as error:
        log.warning("Slurm does not say how jobs %s ended: %s", ", ".join(jobs), error)
        return {}
    return {job: [state.cause or "slot_lost" for state in starts if not state.alive] for job, starts in states.items()}


class _Stop:
    """What a signal asked this driver for."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def limit_near(self) -> bool:
        return self.signal is signal.SIGUSR2

    def receive(self, number: int, _: FrameType | None) -> None:
        if self.signal is None or self.limit_near:
            self.signal = signal.Signals(number)


@contextmanager
def _listening() -> Iterator[_Stop]:
    stop = _Stop()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    former = {number: signal.signal(number, stop.receive) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def drive(sweep: Sweep, slots: int | None) -> None:
    """Works through a sweep until nothing of it is due.

    SIGUSR2 (the time limit is near) and SIGTERM stop handing out runs and let running ones checkpoint; after SIGUSR2
    the job is put back into the queue.

    Args:
        sweep: The sweep directory.
        slots: Runs at a time on this machine; None for the slots of the Slurm allocation.

    Raises:
        RunHeld: If another driver works on the sweep.
        RunFailed: If not every run is COMPLETED in the end; the message says how many are what.
    """
    session = slurm.session()
    with acquire(RunPaths(sweep.root)), _listening() as stop:
        _rounds(sweep, slots, session, stop)
        remove_stale_pipes()
        state = due(sweep)
        if stop.limit_near and state.runnable and (job := slurm.job_id()) is not None:
            log.info("time limit near: %d runs go on after a requeue", len(state.runnable))
            slurm.requeue(job)
    _report(sweep, state)


def _rounds(sweep: Sweep, slots: int | None, session: str, stop: _Stop) -> None:
    together = from_record(sweep.submission().resources).runs_per_gpu or 1
    wait_until = time.monotonic() + STALE_AFTER_S
    remove_stale_pipes()
    while stop.signal is None:
        settle(sweep, session)
        state = due(sweep)
        log.info("%s: %s", sweep.label, _counts(state))
        if state.runnable:
            _one_round(sweep, Round(sweep, state.runnable, together, session, slots), state, session, stop)
            wait_until = time.monotonic() + STALE_AFTER_S
        elif state.held and time.monotonic() < wait_until:
            time.sleep(_HELD_POLL_S)  # its owner may be dead without our knowing yet
        else:
            return


def _one_round(sweep: Sweep, work: Round, state: Due, session: str, stop: _Stop) -> None:
    before = _starts(sweep, state)
    try:
        while not work.wait(1.0):
            if stop.signal is not None:
                log.warning("%s: runs checkpoint, nothing more is started", stop.signal.name)
                control.drain(sweep.control, session)
                _wait_for_runs(sweep, state, work)
                return
    finally:
        work.end()
    if (problem := work.problem()) is not None:
        log.error("%s; see %s", problem, work.folder)
    if _starts(sweep, state) == before and len(due(sweep).runnable) == len(state.runnable):
        raise RunFailed(f"no slot started any run, for a reason of the allocation; see {work.folder} and {sweep.logs}")


def _starts(sweep: Sweep, state: Due) -> int:
    return sum(len(read_history(sweep.attempts(run)).attempts) for run in state.runnable)


def _wait_for_runs(sweep: Sweep, state: Due, work: Round) -> None:
    """Waits until every run that was started has ended; Slurm ends the wait if it takes too long."""
    while not work.wait(control.POLL_S):
        if not any(read_history(sweep.attempts(run)).lost() for run in state.runnable):
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
    hint += f", gptopt retry {sweep.label} starts failed ones again" if state.left else ""
    hint += ", the same command goes on with the rest" if state.runnable else ""
    raise RunFailed(f"{sweep.label}: {_counts(state)}" + (f" ({reasons})" if reasons else "") + hint)


def local_slots(gpus: int, gpus_per_run: int | None, cpus_per_run: int | None) -> int:
    """Returns how many runs this machine takes at a time: by its GPUs, or else by the cores that a run asks for."""
    if gpus and gpus_per_run != 0:
        return max(1, gpus // (gpus_per_run or 1))
    return max(1, len(os.sched_getaffinity(0)) // cpus_per_run) if cpus_per_run else 1
