"""What every slot of every backend calls: one run, with its own GPUs, started, watched, and its end written down."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.resources import from_record
from gpt_opt.dispatch.slot.gpus import GpuBusy, Lease, lease, node_name, slot_environment
from gpt_opt.errors import FULL_DISK, GptOptError
from gpt_opt.records import stop_requests as control
from gpt_opt.records.attempts import CAUSES, Attempt, note_end, note_start, read_history
from gpt_opt.records.claim import read_claim
from gpt_opt.records.io import now
from gpt_opt.records.process import this_process
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, StateUnreadable, is_done, read_state
from gpt_opt.records.sweep_dir import Submission, Sweep, SweepRun
from gpt_opt.run.devices import DEVICES, SHUTDOWN, SWEEP
from gpt_opt.run.outputs import write_line
from gpt_opt.run.signals import WARNINGS, handled, stop_signals

log = logging.getLogger(__name__)

SESSION = "GPTOPT_SESSION"
"""Environment variable of a slot: the session of the driver that made it (see `slurm.session`)."""

DRIVER = "GPTOPT_DRIVER"
"""Environment variable of a slot: attempt of the driver's claim on the sweep; the slot ends with that driver."""

_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 20_000
_OTHER_NODE_S = 60.0


@dataclass(frozen=True)
class _Child:
    run: SweepRun
    attempt: Attempt
    process: subprocess.Popen[bytes]
    workers: int
    log: Path
    log_start: int
    oom_kills: int
    processes: int

    def said(self) -> list[str]:
        """Returns the last lines that this attempt wrote to its error log."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(self.log_start, self.log.stat().st_size - _TAIL_BYTES))
                lines = stream.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line.strip() for line in lines if line.strip()]


class Slot:
    """One slot at work: runs the given runs, `runs_per_gpu` at a time, on the GPUs it leases.

    Args:
        sweep: The sweep directory.
        environment: Of this process.
    """

    def __init__(self, sweep: Sweep, environment: Mapping[str, str]) -> None:
        self._sweep = sweep
        self._submission = sweep.submission()
        self._resources = from_record(self._submission.resources)
        self._environment = slot_environment(environment)
        self._session = environment.get(SESSION)
        self._children: list[_Child] = []
        self._stopping: str | None = None
        self._driver = int(environment[DRIVER]) if DRIVER in environment else None
        self._leads = self._environment.get("SLURM_NODEID", "0") == "0" or (self._resources.nodes_per_run or 1) == 1

    # -- the user's side ------------------------------------------------------------------------------------------

    def execute(self, runs: Sequence[SweepRun]) -> bool:
        """Runs `runs` to their ends and returns whether all of them are COMPLETED."""
        # submitit's own handler of a warning, where there is one, calls `interrupt`.
        numbers = [item for item in stop_signals() if item not in WARNINGS or not callable(signal.getsignal(item))]
        with handled(numbers, self._on_signal):
            _die_with_parent()
            self._work(list(runs))
        return all(_is_done(run) for run in runs)

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
                        if self._stopping is not None:  # the signal came before there was anybody to pass it on to
                            _stop(child)
                self._watch(waiting)
        finally:
            if held is not None:
                held.release()

    def _is_due(self, run: SweepRun) -> bool:
        if _is_done(run):
            _say(run, "is complete already")
            return False
        if self._stopping or self._asked_to_stop(run):
            _say(run, "is not started: asked to stop")
            return False
        return True

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
        _say(run, f"{CAUSES[cause].says}" + (f": {message}" if message else ""))

    def _start(self, run: SweepRun, held: Lease) -> _Child | None:
        attempt = self._note_start(run, held.devices)
        command, workers = command_of(run, self._submission, self._environment)
        environment = self._run_environment(held, workers)
        name = f"{run.index}" if self._leads else f"{run.index}.{attempt.node}"
        files = [self._sweep.logs / f"{name}.{end}" for end in ("out", "err")]
        logs = [file.open("ab") for file in files]
        log_start, oom_kills = logs[1].tell(), _oom_kills()
        _say(run, f"starts on {attempt.node}" + (f", GPU {','.join(held.devices)}" if held.devices else ""))
        try:
            process = subprocess.Popen(
                command,
                cwd=self._submission.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=logs[0],
                stderr=logs[1],
                pass_fds=held.fds,  # the GPU stays locked as long as any process of the run lives
                start_new_session=True,  # a signal to the slot's group reaches the run through the slot alone
                preexec_fn=_as_child,
            )
        except OSError as error:  # a fault of this node: another may start the run
            self._note_end(run, attempt, "slot_lost", None, f"on {attempt.node}: {error}")
            return None
        finally:
            for stream in logs:
                stream.close()
        processes = workers * (self._resources.nodes_per_run or 1)
        return _Child(run, attempt, process, workers, files[1], log_start, oom_kills, processes)

    def _run_environment(self, held: Lease, workers: int) -> dict[str, str]:
        environment = {**self._environment, "PYTHONUNBUFFERED": "1"}
        if held.devices or self._resources.gpus_per_run == 0:
            environment[DEVICES] = ",".join(held.devices)
        cores = self._resources.cpus_per_run or int(environment.get("SLURM_CPUS_PER_TASK", "0"))
        cores = cores or len(os.sched_getaffinity(0)) // (self._submission.slots or 1)
        threads = max(1, cores // workers // (self._resources.runs_per_gpu or 1))
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        environment[SWEEP] = self._submission.sweep
        return environment | SHUTDOWN

    # -- watching -------------------------------------------------------------------------------------------------

    def _watch(self, waiting: list[SweepRun]) -> None:
        """Waits a little, hands on requests to stop, and takes note of runs that ended."""
        if not self._children:
            return
        with suppress(subprocess.TimeoutExpired):
            self._children[0].process.wait(control.POLL_S)
        for child in [item for item in self._children if item.process.poll() is not None]:
            self._children.remove(child)
            if self._ended(child) and not self._stopping:
                waiting.insert(0, child.run)
        asked = [child for child in self._children if not self._stopping and self._asked_to_stop(child.run)]
        for child in asked:
            _stop(child)

    def _asked_to_stop(self, run: SweepRun) -> bool:
        try:
            if control.read(self._sweep.control).stops(self._driver, run.run_id):
                return True
            driver = None if self._driver is None else read_claim(RunPaths(self._sweep.root))
        except (OSError, GptOptError) as error:
            log.warning("whether to stop is not known now, asking again: %s", error)
            return False
        return driver is not None and (driver.attempt != self._driver or driver.released or driver.owner.is_dead())

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._stopping is None:
            self._stopping = signal.Signals(number).name
            for child in self._children:
                _stop(child)

    def interrupt(self) -> None:
        """Stops all runs, waits for their ends and writes them down; fit for a signal handler."""
        self._on_signal(signal.SIGUSR2, None)
        for child in self._children:
            while not _has_ended(child.process.pid):
                time.sleep(0.2)
            cause = "completed" if _is_done(child.run) else "stopped"
            self._note_end(child.run, child.attempt, cause, None, "")
        self._children.clear()

    def _ended(self, child: _Child) -> bool:
        """Writes down how a run ended; returns whether this slot shall start it again at once."""
        cause, message = self._cause(child)
        self._note_end(child.run, child.attempt, cause, child.process.returncode, message)
        return cause == "killed" and read_history(self._sweep.attempts(child.run)).spent() is None

    def _cause(self, child: _Child) -> tuple[str, str]:
        code, paths = child.process.returncode, child.run.paths()
        lines = child.said()
        said = lines[-1][:300] if lines else ""
        try:
            state = self._settled_state(paths)
            done = is_done(paths)
        except StateUnreadable as error:
            return "exception", str(error)
        if done:
            return "completed", ""
        asked = self._stopping is not None or self._asked_to_stop(child.run)
        mine = state.started is not None and state.started >= child.attempt.started
        if state.state is State.FAILED and mine:
            return _failure(state, code)
        if code == 2:
            return "request", said
        claim = read_claim(paths)
        # Of a run of several processes, torchrun stops the others politely when one was killed.
        polite = child.processes == 1 and mine and claim is not None and claim.released
        if asked or (polite and state.state is State.INTERRUPTED):
            cancelled = child.run.run_id in control.read(self._sweep.control).cancelled
            return ("cancelled" if cancelled else "stopped"), ""
        if state.state is State.RUNNING:
            return "held", said
        if code in (-signal.SIGKILL, 1) and _oom_kills() > child.oom_kills:
            return "out_of_memory", "killed by the kernel for want of memory"
        if code < 0 or code >= 128:
            return "killed", f"signal {-code if code < 0 else code - 128}"
        if (words := _full_disk("\n".join(lines))) is not None:
            return "no_space", words.lower()
        if state.state is State.INTERRUPTED and mine:
            return "killed", "a process of the run"
        return "exception", said

    def _settled_state(self, paths: RunPaths) -> RunState:
        """Returns the state of a run that ended here; on further nodes, once the first node has told it."""
        deadline = time.monotonic() + (0 if self._leads else _OTHER_NODE_S)
        while (state := read_state(paths)).state is State.RUNNING and time.monotonic() < deadline:
            time.sleep(control.POLL_S)
        return state


def _say(run: SweepRun, text: str) -> None:
    write_line(f"run {run.index} ({run.run_id}) {text}", sys.stdout)


def _is_done(run: SweepRun) -> bool:
    try:
        return is_done(run.paths())
    except StateUnreadable:
        return False


def _failure(state: RunState, code: int) -> tuple[str, str]:
    """Returns the cause and the message of a run that wrote down its own failure."""
    error = state.error or {}
    kind, message = error.get("type", "Exception"), error.get("message", "")
    lines = message.strip().splitlines()
    text = f"{kind}: {lines[0]}" if lines else kind
    if "OutOfMemoryError" in kind or "CUDA out of memory" in message:
        return "out_of_gpu_memory", text
    if kind == "MemoryError" or "can't allocate memory" in message:
        return "out_of_memory", text
    if _full_disk(message + error.get("traceback", "")) is not None:
        return "no_space", text
    return ("request" if code == 2 else "exception"), text


def _full_disk(text: str) -> str | None:
    return next((words for words in FULL_DISK if words in text), None)


def _oom_kills() -> int:
    """Returns how many processes like this one the kernel has killed for want of memory.

    They are those of its memory cgroup, which a job has of its own on most clusters; else all of this node.
    """
    for file in (*_memory_events(), Path("/proc/vmstat")):
        with suppress(OSError):
            for line in file.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _memory_events() -> Iterator[Path]:
    """Yields the files in which cgroups, of version 1 or 2, count kills."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                yield Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
            elif not controllers:
                yield Path(f"/sys/fs/cgroup{path}/memory.events")


def _has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _stop(child: _Child) -> None:
    """Asks a run to checkpoint and end; under torchrun its workers, for torchrun itself would kill them after 30 s."""
    pid, workers = child.process.pid, []
    if child.workers > 1:
        with suppress(psutil.Error):
            workers = [worker.pid for worker in psutil.Process(pid).children()]
    for target in workers or [pid]:
        with suppress(ProcessLookupError):
            os.kill(target, signal.SIGTERM)


def _die_with_parent() -> None:
    """Makes the kernel send SIGTERM to this process when its parent ends: a run does not outlive its slot."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _as_child() -> None:
    """Prepares the process of a run: it ends with its slot, and Slurm's warning of the time limit does not end it.

    Slurm signals every process of a step. torchrun has no handler for a warning and would be gone before its workers
    have checkpointed; a run that trains sets its own.
    """
    _die_with_parent()
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def command_of(run: SweepRun, submission: Submission, environment: Mapping[str, str]) -> tuple[list[str], int]:
    """Returns the command that starts a run, and its number of processes on this node.

    The overrides are separate arguments: no shell ever reads a parameter value.
    """
    resources = from_record(submission.resources)
    workers, nodes = max(1, resources.gpus_per_run or 1), resources.nodes_per_run or 1
    task = [str(Path(submission.root) / "run_hydra.py"), *run.overrides]
    if workers == 1 and nodes == 1:
        return [sys.executable, *task], 1
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(workers)]
    if nodes == 1:
        return [*torchrun, "--standalone", *task], workers
    head, port = rendezvous(environment)
    place = ["--nnodes", str(nodes), "--node-rank", environment["SLURM_NODEID"]]
    return [*torchrun, *place, "--master-addr", head, "--master-port", str(port), *task], workers


def rendezvous(environment: Mapping[str, str]) -> tuple[str, int]:
    """Returns host and port where the nodes of a run meet: the first node, a port that follows from the job id.

    Raises:
        GptOptError: Outside a Slurm job.
    """
    if "SLURM_JOB_NODELIST" not in environment:
        raise GptOptError("nodes_per_run above 1 needs a Slurm job over that many nodes: use --backend submitit")
    head = slurm.run(["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]]).split()[0]
    # The name of a node need not be known to anyone but Slurm; its address is.
    address = re.search(r"\bNodeAddr=(\S+)", slurm.run(["scontrol", "show", "node", head]))
    return address[1] if address else head, 20000 + int(environment["SLURM_JOB_ID"]) % 20000


def task_line(program: str, sweep: Sweep, runs: Sequence[SweepRun]) -> str:
    """Returns the line of a task file that executes `runs` in one slot: plain paths and ids, no parameter value."""
    return " ".join([program, "exec", str(sweep.root), *(run.run_id for run in runs)])
