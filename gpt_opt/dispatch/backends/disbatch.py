"""The backend disbatch: disBatch works through a task file on the slots of an allocation, or of this machine.

Nothing of what it reports is believed: it exits with 0 when tasks failed, has no word of tasks that were cut off, and
its resume goes by position. The runs' own files say what happened.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import cast

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.check_in import CheckIns, start_line
from gpt_opt.dispatch.backends.plain_names import make_links, plain, program
from gpt_opt.dispatch.backends.resources import by_shape, slurm_slots
from gpt_opt.dispatch.backends.sbatch_script import environment_lines, sbatch_text
from gpt_opt.dispatch.slot.launch import task_line
from gpt_opt.dispatch.slot.slot import DRIVER, SESSION
from gpt_opt.errors import GptOptError
from gpt_opt.plan.resources import from_record
from gpt_opt.records.io import now, write_text
from gpt_opt.records.sweep_dir import Job, Submission, Sweep, SweepRun
from gpt_opt.run.signals import ctrl_c_deferred
from gpt_opt.sweep.model import Resources

_END_S = 20.0
_FIFOS = "slurm_context_engine_*"  # disBatch's own, by a fixed name
_FIFO_AGE_S = 60.0
# A prefix is used as it is told: behind a plain link may lie a path that disBatch would break. The parts that it starts
# have the words that follow its Python.
_MAIN = """import os, sys
from disbatch.disBatch import main
os.path.realpath = os.path.abspath
sys.executable += sys.argv.pop(1)
main()"""
_PART = """import random, runpy, sys
draw = random.random
def draw_pause():
    random.random = draw
    return draw() * {share}
if "--engine" in sys.argv:
    random.random = draw_pause
_, _, module = sys.argv[:3]  # -m
del sys.argv[1:3]
runpy.run_module(module, run_name="__main__", alter_sys=True)"""
"""The launcher of engines, the engine that feeds the slots of a node, or a monitor. An engine begins with a pause of
`random.random() * 5.0` seconds, so that hundreds do not connect at once; few need not, and runs may be short."""
_NODES_OF_A_PAUSE = 100  # for which it is 5 s; for fewer a share of it

_NOTHING = "true\n"
"""Follows the lines of runs: disBatch hands a line out when it has read the one after it."""


class DisBatch:
    """One Slurm allocation for each shape; disBatch spreads the runs over its slots."""

    on_slurm = True
    spans_nodes = False
    default_time_min: int | None = None
    takes_waiting = False  # its driver hands them out

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns one slot a run, up to a limit."""
        return slurm_slots(runs)

    def script(self, sweep: Sweep, submission: Submission, shape: int) -> str:
        """Returns the batch script for the runs of a shape."""
        asked, programs = submission.shapes[shape], str(Path(program("gptopt")).parent)
        part = sweep.part(shape) if len(submission.shapes) > 1 else sweep
        environment = environment_lines(submission.root, programs, submission.program)
        return sbatch_text(part, from_record(asked.resources), asked.slots or 1, environment, submission.snapshot)

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> Iterator[list[Job]]:
        """Submits a job for each shape that `runs` have."""
        make_links(sweep)
        shapes = list(by_shape(runs))
        for number, shape in enumerate(shapes):
            try:
                with ctrl_c_deferred(of_children=True):  # sbatch would end, the job that Slurm may have not
                    job = slurm.sbatch(self.script(sweep, submission, shape), submission.cwd)
                    yield [Job(job, now(), shape=shape)]
            except slurm.SlurmError as error:
                if number == 0:
                    raise
                raise GptOptError(slurm.took_some(number, len(shapes), str(error))) from error


def words_of_parts(nodes: int) -> str:
    """Returns what follows Python in the command of disBatch's parts, up to `-m`; 0 nodes are this machine."""
    return " -c " + shlex.quote(_PART.format(share=min(1, nodes / _NODES_OF_A_PAUSE)))


def task_text(sweep: Sweep, runs: Sequence[SweepRun], resources: Resources) -> str:
    """Returns the task file: a line for every run, or for as many as share a GPU, and so a slot."""
    together = resources.runs_per_gpu or 1
    return _text(sweep, [runs[start : start + together] for start in range(0, len(runs), together)])


def _text(sweep: Sweep, lines: Sequence[Sequence[SweepRun]]) -> str:
    return "".join(task_line(program("gptopt"), plain(sweep), line) + "\n" for line in lines)


class Round:
    """One call of disBatch.

    Args:
        sweep: The part of the sweep whose runs it gets, all of one shape; its `tasks` is written.
        resources: What one of them needs.
        session: The start of the driver, see `gpt_opt.records.job_id`.
        driver: See `stop_requests.driver_name`.
        runs: Runs at a time.
        in_job: Whether the slots are those of the Slurm job, else of this machine.

    Attributes:
        slots: Lines at a time.
        together: Runs at a time within a line.
    """

    def __init__(self, sweep: Sweep, resources: Resources, session: str, driver: str, runs: int, in_job: bool) -> None:
        make_links(sweep)
        sweep.disbatch.mkdir(mode=0o700, exist_ok=True)
        folder = plain(sweep).disbatch / f"{session}-{len(list(sweep.disbatch.iterdir()))}"
        folder.mkdir(mode=0o700)
        self.together = resources.runs_per_gpu or 1
        self.slots = math.ceil(runs / self.together)
        # disBatch logs its whole environment at level INFO.
        python = [program(Path(sys.executable).name), "-c", _MAIN]
        parts = words_of_parts(int(os.environ.get("SLURM_JOB_NUM_NODES", 1)) if in_job else 0)
        command = [*python, parts, "--loglevel", "WARNING", "--no-retire", "-p", f"{folder}/d"]
        # Slots get the environment of the driver, even where the job was submitted with none (SBATCH_EXPORT=NONE).
        environment = {**os.environ, "SLURM_EXPORT_ENV": "ALL", SESSION: session, DRIVER: driver}
        if environment.get("SLURM_GPUS_PER_TASK") == "0":
            del environment["SLURM_GPUS_PER_TASK"]  # srun would hide the GPUs of the allocation from every slot
        if len(memory := [name for name in environment if name.startswith("SLURM_MEM_PER_")]) > 1:
            for name in memory:  # one is of an allocation around the job, and srun takes no two: it has the job's then
                del environment[name]
        if not in_job:
            command += ["--ssh-node", f"localhost:{self.slots}", "--use-address", "localhost:0"]
        self._check_ins = CheckIns(folder)
        with (folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "-"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                bufsize=0,
            )
        assert self._process.stdin is not None
        self._stdin, self._unsaid, self._is_flushed = cast("FileIO", self._process.stdin), b"", True
        os.set_blocking(self._stdin.fileno(), False)
        self.folder, self.session = folder, session
        self._sweep, self._lines, self._number = sweep, dict[int, Sequence[SweepRun]](), 0
        self._say(start_line(program("gptopt"), plain(sweep), folder, in_job) + "\n")

    def feed(self, lines: Sequence[Sequence[SweepRun]], is_last: bool) -> None:
        """Hands out lines, the runs of each, to the next free slots; `is_last` says that none will follow."""
        text = _text(self._sweep, lines)
        if self._number == 0:
            write_text(self._sweep.tasks, text)
        else:
            with self._sweep.tasks.open("a") as stream:
                stream.write(text)
        self._lines |= enumerate(lines, self._number)
        self._number += len(lines)
        self._check_ins.is_open = not is_last
        self._check_ins.tasks = self._number
        self._is_flushed = self._is_flushed and not lines
        self._say(text)

    def flush(self) -> None:
        """Makes disBatch hand the last line out, although another one may follow."""
        if not self._is_flushed:
            self._say(_NOTHING)
            self._number += 1
            self._is_flushed = True

    @property
    def outstanding(self) -> int:
        """Number of the lines that were handed out and, as far as `take_ended` told, have not ended."""
        return len(self._lines)

    @property
    def has_shared_lines(self) -> bool:
        """Whether one of those has several runs."""
        return any(len(line) > 1 for line in self._lines.values())

    def take_ended(self) -> list[Sequence[SweepRun]]:
        """Returns the lines that have ended, however, since the last call."""
        return [self._lines.pop(number) for number in self._check_ins.ended() if number in self._lines]

    def at_work(self) -> frozenset[int]:
        """Returns the indices of the runs of those lines that have not ended."""
        return frozenset(run.index for line in self._lines.values() for run in line)

    def _say(self, lines: str) -> None:
        """Gives disBatch as many lines as its pipe takes now, for it reads one when a slot is free; `wait` goes on."""
        self._unsaid += lines.encode("ascii")
        with suppress(BrokenPipeError):  # it has ended, which `wait` tells
            while self._unsaid and (taken := self._stdin.write(self._unsaid)):
                self._unsaid = self._unsaid[taken:]
            if not (self._unsaid or self.is_open):
                self._stdin.close()

    @property
    def is_open(self) -> bool:
        """Whether runs may follow."""
        return self._check_ins.is_open

    def lost_nodes(self) -> dict[str, str]:
        """Returns the nodes whose slots do not start, with the reason."""
        return self._check_ins.lost(over=self._process.returncode is not None)

    def is_over(self) -> bool:
        """Returns whether there is nothing to wait for, though disBatch may not have ended."""
        return self._check_ins.is_over()

    def wait(self, timeout_s: float) -> bool:
        """Waits for the end, at most so long; returns whether it came."""
        if not self._stdin.closed:
            self._say("")
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Ends disBatch and everything of it that is left."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            if self.wait(_END_S):
                break
        self._stdin.close()

    def problem(self) -> str | None:
        """Returns what disBatch said when it could not do its work, or None."""
        if self._process.returncode in (0, None) or self._process.returncode < 0:
            return None
        lines = (self.folder / "output").read_text(errors="replace").strip().splitlines()
        return f"disBatch ended with {self._process.returncode}: " + (lines[-1] if lines else "it said nothing")


def remove_stale_pipes() -> None:
    """Removes named pipes that killed disBatch workers of this user left in /tmp on this node."""
    for path in Path("/tmp").glob(_FIFOS):
        with suppress(OSError):
            info = path.stat()
            if not stat.S_ISFIFO(info.st_mode) or info.st_uid != os.getuid():
                continue
            if time.time() - info.st_mtime < _FIFO_AGE_S:
                continue  # it may just be waiting for its other end
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                path.unlink()  # nobody reads it any more
