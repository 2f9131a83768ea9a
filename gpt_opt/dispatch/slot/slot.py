"""What every slot of every backend calls: one run, with its own GPUs, started, watched, and its end written down."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import FrameType

from gpt_opt.dispatch.measure import SpeedMeter, resumed_step
from gpt_opt.dispatch.slot.diagnose import End, diagnose, oom_kills
from gpt_opt.dispatch.slot.gpus import GpuBusy, Lease, lease, node_name, slot_environment
from gpt_opt.dispatch.slot.launch import Launcher, RunProcess
from gpt_opt.dispatch.stages import must_wait
from gpt_opt.errors import GptOptError
from gpt_opt.plan.resources import from_record
from gpt_opt.records import stop_requests as control
from gpt_opt.records.attempts import CAUSES, Attempt, note_end, note_start, read_history
from gpt_opt.records.claim import read_claim
from gpt_opt.records.io import now
from gpt_opt.records.process import this_process
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.speeds import Speeds, read_speeds
from gpt_opt.records.state import RunState, State, StateUnreadable, is_done, read_state
from gpt_opt.records.sweep_dir import Sweep, SweepRun, active
from gpt_opt.run.outputs import write_line
from gpt_opt.run.signals import WARNINGS, end_with_parent, handled, stop_signals

log = logging.getLogger(__name__)

SESSION = "GPTOPT_SESSION"
"""Environment variable of a slot: the start of the driver that made it, see `gpt_opt.records.job_id`."""

DRIVER = "GPTOPT_DRIVER"
"""Environment variable of a slot: its driver, by `stop_requests.driver_name`; the slot ends with that driver."""

_OTHER_NODE_S = 60.0


class Slot:
    """One running slot: runs the given runs, `runs_per_gpu` at a time, on the GPUs it leases.

    Args:
        sweep: The part of the sweep that its runs belong to.
        environment: Of this process.

    Attributes:
        stopped_by: Name of the signal that asked this slot to stop; None before one did.
    """

    def __init__(self, sweep: Sweep, environment: Mapping[str, str]) -> None:
        self._sweep = sweep
        shape = sweep.needs()
        self._resources = from_record(shape.resources)
        self._environment = slot_environment(environment)
        self._launcher = Launcher(sweep, self._resources, shape.slots, self._environment, lambda: bool(self.stopped_by))
        self._session = environment.get(SESSION)
        self._children: list[RunProcess] = []
        self.stopped_by: str | None = None
        self._driver = environment.get(DRIVER)
        self._leads = self._environment.get("SLURM_NODEID", "0") == "0" or (self._resources.nodes_per_run or 1) == 1

    # -- the user's side ------------------------------------------------------------------------------------------

    def execute(self, runs: Sequence[SweepRun]) -> bool:
        """Runs `runs` to their ends and returns whether all of them are COMPLETED."""
        # submitit's own handler of a warning, where there is one, calls `interrupt`.
        numbers = [item for item in stop_signals() if item not in WARNINGS or not callable(signal.getsignal(item))]
        with handled(numbers, self._on_signal):
            end_with_parent()
            self._work(list(runs))
        meant = active(Sweep(self._sweep.root).runs, self._sweep.chosen())
        return all(_is_done(run) for run in runs if run.index in meant)

    def _work(self, waiting: list[SweepRun]) -> None:
        held: Lease | None = None
        try:
            while waiting or self._children:
                while waiting and len(self._children) < (self._resources.runs_per_gpu or 1):
                    run = waiting.pop(0)
                    if not self._is_due(run):
                        continue
                    held = held or self._lease(run)
                    if held is None:
                        return
                    if (child := self._start(run, held)) is not None:
                        self._children.append(child)
                        if self.stopped_by is not None:  # the signal came before there was anybody to pass it on to
                            child.stop()
                self._watch(waiting)
        finally:
            if held is not None:
                held.release()

    def _is_due(self, run: SweepRun) -> bool:
        if _is_done(run):
            _say(run, "is complete already")
            return False
        if self.stopped_by or self._asked_to_stop(run):
            _say(run, "is not started: asked to stop")
            return False
        if reason := must_wait(self._sweep, run) or self._too_late_for(run):
            _say(run, f"is not started: {reason}")
            return False
        return True

    def _too_late_for(self, run: SweepRun) -> str:
        """Returns why a run is left for the next allocation; "" if not, and where nobody would start it then."""
        speeds = Speeds() if self._driver is None else read_speeds(self._sweep.speeds)
        if speeds.ends is None:
            return ""
        if run.workload is not None and run.workload.name not in speeds.workloads:  # its driver looks a moment later
            speeds = replace(speeds, workloads=SpeedMeter(self._sweep, run.workload.name).measure().workloads)
        return speeds.too_late_for(run, resumed_step(run, run.paths()), time.time())

    def _lease(self, run: SweepRun) -> Lease | None:
        try:
            return lease(self._environment, self._resources.gpus_per_run)
        except GptOptError as error:
            log.error("%s", error)
            attempt = self._note_start(run, ())
            cause = "gpu_busy" if isinstance(error, GpuBusy) else "request"
            self._note_end(run, attempt, cause, None, str(error))
            return None

    # -- one run --------------------------------------------------------------------------------------------------

    def _note_start(self, run: SweepRun, devices: Sequence[str]) -> Attempt:
        attempt = Attempt(
            id=uuid.uuid4().hex[:12],
            started=now(),
            session=self._session,
            owner=this_process(),
            node=node_name(self._environment),
            gpus=tuple(devices),
            mem_gb=self._resources.mem_gb,
        )
        if self._leads:
            note_start(self._sweep.attempts(run), attempt)
        return attempt

    def _note_end(self, run: SweepRun, attempt: Attempt, cause: str, code: int | None, message: str) -> None:
        if self._leads:
            note_end(self._sweep.attempts(run), attempt.id, cause, code, message)
        _say(run, f"{CAUSES[cause].message}" + (f": {message}" if message else ""))

    def _start(self, run: SweepRun, held: Lease) -> RunProcess | None:
        attempt = self._note_start(run, held.devices)
        _say(run, f"starts on {attempt.node}" + (f", GPU {','.join(held.devices)}" if held.devices else ""))
        name = f"{run.index}" if self._leads else f"{run.index}.{attempt.node}"
        try:
            return self._launcher.start(run, attempt, held, name)
        except OSError as error:  # a fault of this node: another may start the run
            self._note_end(run, attempt, "slot_lost", None, f"on {attempt.node}: {error}")
            return None

    # -- watching -------------------------------------------------------------------------------------------------

    def _watch(self, waiting: list[SweepRun]) -> None:
        """Waits a little, hands on requests to stop, and takes note of runs that ended."""
        if not self._children:
            return
        with suppress(subprocess.TimeoutExpired):
            self._children[0].process.wait(control.POLL_S)
        for child in [item for item in self._children if item.process.poll() is not None]:
            self._children.remove(child)
            if self._ended(child) and not self.stopped_by:
                waiting.insert(0, child.run)
        asked = [child for child in self._children if not self.stopped_by and self._asked_to_stop(child.run)]
        for child in asked:
            child.stop()

    def _asked_to_stop(self, run: SweepRun) -> bool:
        try:
            if control.read(self._sweep.control).stops(self._driver, run.run_id):
                return True
            driver = None if self._driver is None else read_claim(self._sweep.driver)
        except (OSError, GptOptError) as error:
            log.warning("whether to stop is not known now, asking again: %s", error)
            return False
        if driver is None:
            return False
        other = control.driver_name(self._sweep.shape, driver.attempt) != self._driver
        return other or driver.released or driver.owner.is_dead()

    def _is_cancelled(self, run: SweepRun) -> bool:
        with suppress(OSError, GptOptError):
            return run.run_id in control.read(self._sweep.control).cancelled
        return False

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by = signal.Signals(number).name
            for child in self._children:
                child.stop()

    def interrupt(self) -> None:
        """Stops all runs, waits for their ends and writes them down; fit for a signal handler."""
        self._on_signal(signal.SIGUSR2, None)
        for child in self._children:
            while not child.has_ended():
                time.sleep(0.2)
            cause = "completed" if _is_done(child.run) else "stopped"
            self._note_end(child.run, child.attempt, cause, None, "")
        self._children.clear()

    def _ended(self, child: RunProcess) -> bool:
        """Writes down how a run ended; returns whether this slot shall start it again at once."""
        cause, message = diagnose(self._end_of(child))
        self._note_end(child.run, child.attempt, cause, child.exit_code, message)
        return cause == "killed" and read_history(self._sweep.attempts(child.run)).exhausted() is None

    def _end_of(self, child: RunProcess) -> End:
        """Returns what is known of the end of a run's process."""
        code, paths = child.exit_code, child.run.paths()
        try:
            state, done = self._final_state(paths), is_done(paths)
        except StateUnreadable as error:
            return End(code, unreadable=str(error))
        if done:
            return End(code, is_done=True)
        return End(
            code,
            stderr_tail=child.stderr_tail(),
            state=state,
            is_own=state.started is not None and state.started >= child.attempt.started,
            stop_requested=self.stopped_by is not None or self._asked_to_stop(child.run),
            is_cancelled=self._is_cancelled(child.run),
            released=_is_released(paths),
            processes=child.processes,
            oom_kills=oom_kills() - child.oom_kills,
        )

    def _final_state(self, paths: RunPaths) -> RunState:
        """Returns the state of a run that ended here; on further nodes, once the first node has told it."""
        deadline = time.monotonic() + (0 if self._leads else _OTHER_NODE_S)
        while (state := read_state(paths)).state is State.RUNNING and time.monotonic() < deadline:
            time.sleep(control.POLL_S)
        return state


def _say(run: SweepRun, text: str) -> None:
    write_line(f"run {run.index} ({run.run_id}) {text}", sys.stdout)


def _is_released(paths: RunPaths) -> bool:
    """Returns whether the last owner of a run gave it back; a claim that is not ours was never given back."""
    with suppress(GptOptError):
        claim = read_claim(paths)
        return claim is not None and claim.released
    return False


def _is_done(run: SweepRun) -> bool:
    try:
        return is_done(run.paths())
    except StateUnreadable:
        return False
