"""How a run's process is started: arguments, environment, process; of several processes, torchrun and a rendezvous."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.slot import warm
from gpt_opt.dispatch.slot.diagnose import oom_kills
from gpt_opt.dispatch.slot.gpus import Lease, node_name
from gpt_opt.dispatch.snapshot import app_root, import_path
from gpt_opt.errors import GptOptError
from gpt_opt.records.attempts import Attempt
from gpt_opt.records.program import Program
from gpt_opt.records.provenance import DEVICES
from gpt_opt.records.run_dir import make_run_dir
from gpt_opt.records.sweep_dir import Sweep, SweepRun
from gpt_opt.run.devices import SHUTDOWN, SWEEP
from gpt_opt.run.planned import RUN_ID, SWEEP_DIR
from gpt_opt.run.signals import WARNINGS, end_with_parent
from gpt_opt.run.warm import Request
from gpt_opt.sweep.model import Resources
from gpt_opt.sweep.overrides import to_override

log = logging.getLogger(__name__)

_TAIL_BYTES = 20_000


def _imported(program: Program, command: Sequence[str]) -> list[str]:
    """Returns what the warm process for a command imports."""
    adapters = any(text.startswith("lora=") and text != "lora=none" for text in command)
    return [*program.warm_imports, *(["peft"] if adapters and program == Program() else [])]


@dataclass(frozen=True)
class RunProcess:
    """The process of one attempt at a run; with several workers it is torchrun.

    Attributes:
        run: The run.
        attempt: The attempt.
        process: What was started.
        workers: Processes that train on this node.
        processes: Those on all nodes.
        log: Its error log, to which former attempts may have written.
        log_start: Bytes that they wrote.
        oom_kills: The kernel's count at the start; see `diagnose.oom_kills`.
    """

    run: SweepRun
    attempt: Attempt
    process: subprocess.Popen[bytes] | warm.WarmProcess
    workers: int
    processes: int
    log: Path
    log_start: int
    oom_kills: int

    def stderr_tail(self) -> list[str]:
        """Returns the last lines that this attempt wrote to its error log, without empty ones."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(self.log_start, self.log.stat().st_size - _TAIL_BYTES))
                lines = stream.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line.strip() for line in lines if line.strip()]

    @property
    def exit_code(self) -> int:
        """Exit code of a run that has ended, negative for a signal."""
        assert self.process.returncode is not None
        return int(self.process.returncode)

    def has_ended(self) -> bool:
        """Returns whether it has ended, without taking its exit code: fit for a signal handler."""
        try:
            return bool(psutil.Process(self.process.pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    def stop(self) -> None:
        """Asks the run to checkpoint and end; under torchrun its workers, which torchrun would kill after 30 s."""
        pid, workers = self.process.pid, []
        if self.workers > 1:
            with suppress(psutil.Error):
                workers = [worker.pid for worker in psutil.Process(pid).children()]
        for target in workers or [pid]:
            with suppress(ProcessLookupError):
                os.kill(target, signal.SIGTERM)


class Launcher:
    """Starts the runs of one slot.

    Args:
        sweep: The sweep directory.
        resources: What one run needs.
        slots: Runs at a time; None where the allocation decides.
        environment: Of the slot.
        is_stopping: Says whether the slot was asked to stop.
    """

    def __init__(
        self,
        sweep: Sweep,
        resources: Resources,
        slots: int | None,
        environment: Mapping[str, str],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._sweep, self._submission = sweep, sweep.submission()
        self._resources, self._slots, self._environment = resources, slots, environment
        self._is_stopping = is_stopping

    def start(self, run: SweepRun, attempt: Attempt, held: Lease, name: str) -> RunProcess:
        """Starts the process of a run, whose logs are `name` with a suffix each.

        Raises:
            OSError: If this node cannot start it.
            GptOptError: If its nodes have no host to meet at.
        """
        program, run_dir = self._submission.program, run.paths().root
        if program.makes_directory:
            run_dir = make_run_dir(run_dir, run.run_id)
        app = app_root(self._sweep, self._submission)
        task = program.arguments(app, run_dir, run.run_id, self._overrides(run))
        command, workers = command_of(task, program.torchrun, self._resources, self._environment)
        files = [self._sweep.logs / f"{name}.{end}" for end in ("out", "err")]
        logs = [file.open("ab") for file in files]
        log_start, kills = logs[1].tell(), oom_kills()
        environment = self._environment_of(run, held, workers)
        processes = workers * (self._resources.nodes_per_run or 1)
        process: subprocess.Popen[bytes] | warm.WarmProcess | None = None
        try:
            if processes == 1 and warm.TASK in environment and program.warm_imports and not self._submission.cold:
                process = self._start_warm(command[1:], environment, logs, held.fds)
            process = process or subprocess.Popen(
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
        finally:
            for stream in logs:
                stream.close()
        return RunProcess(run, attempt, process, workers, processes, files[1], log_start, kills)

    def _overrides(self, run: SweepRun) -> Sequence[str]:
        """Returns the overrides of a run, with a path in the place of the id of the run that it starts from."""
        key = self._submission.program.start
        if not key or run.parent is None:
            return run.overrides
        parent = Sweep(self._sweep.root).runs[run.parent].paths()
        start = to_override(key, str(self._submission.program.result_of(parent)))
        return [start if text.startswith(f"{key}=run:") else text for text in run.overrides]

    def _start_warm(
        self, command: Sequence[str], environment: Mapping[str, str], logs: Sequence[IO[bytes]], held: Sequence[int]
    ) -> warm.WarmProcess | None:
        """Starts a run as a child of the warm process of this slot; says why, and returns None, where that fails."""
        cpus = sorted(os.sched_getaffinity(0))
        code = str(app_root(self._sweep, self._submission))
        request = Request(command, self._submission.cwd, environment, cpus, WARNINGS, code)
        log_file = self._sweep.logs / f"warm-{node_name(self._environment)}.out"
        with open(os.devnull, "rb") as nothing:
            descriptors = [nothing.fileno(), *(stream.fileno() for stream in logs), *held]
            modules = _imported(self._submission.program, command)
            try:
                return warm.start(request, descriptors, log_file, modules, self._is_stopping)
            except (OSError, GptOptError) as error:
                log.warning("the run starts cold: %s; %s may say more", error, log_file)
                return None

    def _environment_of(self, run: SweepRun, held: Lease, workers: int) -> dict[str, str]:
        environment = {**self._environment, "PYTHONUNBUFFERED": "1"}
        if held.devices or self._resources.gpus_per_run == 0:
            environment[DEVICES] = ",".join(held.devices)
        cores = self._resources.cpus_per_run or int(environment.get("SLURM_CPUS_PER_TASK", "0"))
        cores = cores or len(os.sched_getaffinity(0)) // (self._slots or 1)
        threads = max(1, cores // workers // (self._resources.runs_per_gpu or 1))
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        environment |= {SWEEP: self._submission.sweep, RUN_ID: run.run_id, SWEEP_DIR: str(self._sweep.root)}
        environment |= import_path(self._sweep, self._submission, environment) | SHUTDOWN
        if self._submission.program.on_path:
            roots = [str(app_root(self._sweep, self._submission)), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, roots))
        return environment


def command_of(
    task: Sequence[str], torchrun: bool, resources: Resources, environment: Mapping[str, str]
) -> tuple[list[str], int]:
    """Returns the command that starts a run, and its number of processes on this node.

    The overrides are separate arguments: no shell ever reads a parameter value.

    Args:
        task: Arguments of Python that make the run.
        torchrun: Whether several processes are started by torchrun; otherwise the run starts them by itself.
        resources: What the run needs.
        environment: Of the slot; over several nodes it says which of them this is.
    """
    workers, nodes = max(1, resources.gpus_per_run or 1), resources.nodes_per_run or 1
    if not torchrun or (workers == 1 and nodes == 1):
        return [sys.executable, *task], 1
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(workers)]
    if nodes == 1:
        return [*launcher, "--standalone", *task], workers
    head, port = rendezvous(environment)
    layout = ["--nnodes", str(nodes), "--node-rank", environment["SLURM_NODEID"]]
    return [*launcher, *layout, "--master-addr", head, "--master-port", str(port), *task], workers


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


def _as_child() -> None:
    """Prepares the process of a run: it ends with its slot, and Slurm's warning of the time limit does not end it.

    Slurm signals every process of a step. torchrun has no handler for a warning and would be gone before its workers
    have checkpointed; a run that trains sets its own.
    """
    end_with_parent()
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)
