"""How slots start: every node of a round checks in before it gets a run, and what keeps a node from it is reported.

disBatch waits for ever when the step that should start its part on a node fails; so it is watched here.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from gpt_opt.dispatch.slot.gpus import node_name
from gpt_opt.dispatch.snapshot import app_root
from gpt_opt.errors import GptOptError
from gpt_opt.records.process import lives
from gpt_opt.records.sweep_dir import Sweep

CHECK_IN_S = 300.0
"""How long a node may take to check in, in seconds; a driver to which none came by then gives the allocation back."""

_OVER_S = 3.0
_SETTLE_S = 2.0  # between its log and its process
_WRAP = "_engine_wrap.log"  # what the launcher of disBatch's part on a node says: d_<context>_<node>_engine_wrap.log
_NOISE = re.compile(r"\s|Traceback|srun: error: \S+ tasks? |srun: cluster configuration lacks support")


def check_in(sweep: Sweep) -> None:
    """Checks that this node can execute runs of a sweep.

    Raises:
        GptOptError: Says what it lacks.
    """
    submission = sweep.submission()
    code = app_root(sweep, submission) / submission.program.file
    needed = {"the working directory": Path(submission.cwd), "the code": code}
    for what, path in needed.items():
        if not path.exists():
            raise GptOptError(f"{what} must be visible on every node, but {path} is not there")


def start_line(gptopt: str, sweep: Sweep, folder: Path, in_job: bool) -> str:
    """Returns the line of a task file by which a node checks in; one that cannot leaves the round without a run.

    Args:
        gptopt: Path of the command.
        sweep: The sweep directory, by a plain name.
        folder: Of the round.
        in_job: Whether the nodes are those of a Slurm job, where disBatch's part on a node is a step.
    """
    node = "$SLURMD_NODENAME" if in_job else socket.gethostname()
    # A step takes some seconds to end, and would be given runs if this command ended before.
    leave = "scancel $SLURM_JOB_ID.$SLURM_STEP_ID && sleep 5" if in_job else "kill $PPID"
    said, refused = f"{folder}/said.{node}", f"{folder}/refused.{node}"
    command = f"{gptopt} exec {sweep.root} >{folder}/ready.{node} 2>{said}"
    return f"#DISBATCH PERENGINE START {command} || {{ mv {said} {refused} && {leave}; }}"


class CheckIns:
    """The nodes of one round, as the files and processes of disBatch show them.

    Args:
        folder: Of the round.

    Attributes:
        tasks: Number of the tasks that were handed out.
        is_open: Whether more may follow.
    """

    def __init__(self, folder: Path) -> None:
        self.tasks, self.is_open = 0, True
        self._folder = folder
        self._began = time.monotonic()
        self._over_since: float | None = None
        self._missing_since: dict[str, float] = {}
        self._read_until, self._ended = 0, set[int]()

    def lost(self, over: bool = False) -> dict[str, str]:
        """Returns the nodes that do not check in, each with the error message of what failed.

        Args:
            over: Whether disBatch has ended, so that no further node will check in.
        """
        launchers, now = set(_arguments_of_children(self._context())), time.monotonic()
        late = now - self._began > CHECK_IN_S
        logs, reasons = sorted(self._folder.glob(f"d_*{_WRAP}")), {}
        if not logs and (over or late):
            reasons[node_name(os.environ)] = (
                _last_lines(self._folder / "output") or "disBatch ended before it came to nodes"
            )
        for log in logs:
            node = log.name.removesuffix(_WRAP).split("_", 2)[2]
            if (refused := self._folder / f"refused.{node}").exists():
                reasons[node] = _last_lines(refused) or "it refused without a word"
            elif self._is_ready(node) or (node in launchers and not late):
                self._missing_since.pop(node, None)
            elif now - self._missing_since.setdefault(node, now) > _SETTLE_S or over:
                reason = _last_lines(self._folder / f"said.{node}") or _last_lines(log)
                if late or over:
                    silent = f"nothing was heard of it within {CHECK_IN_S:.0f} s" if late else "it ended without a word"
                    reason = reason or _last_lines(self._folder / "output") or silent
                if reason:  # else it may have checked in, and the file system be slow to show it
                    reasons[node] = reason
        return reasons

    def is_over(self) -> bool:
        """Returns whether disBatch has nothing to wait for any more, whether it knows that or not."""
        late = time.monotonic() - self._began > CHECK_IN_S
        if late and not any(file.stat().st_size for file in self._folder.glob("ready.*")):
            return True
        context = self._context()
        if (context is not None and not lives(context)) or (self.lost() and self._all_tasks_ended()):
            self._over_since = self._over_since or time.monotonic()
            return time.monotonic() - self._over_since > _OVER_S  # it mostly ends by itself
        return False

    def _is_ready(self, node: str) -> bool:
        with suppress(OSError):
            return (self._folder / f"ready.{node}").stat().st_size > 0
        return False

    def _context(self) -> int | None:
        """Returns the process that launches disBatch's parts: its number stands in the name of its log."""
        return next((int(file.name.split("_")[1]) for file in self._folder.glob("d_*_context_launch.log")), None)

    def _all_tasks_ended(self) -> bool:
        """Returns whether every task has its line in the status file, which says only that it ended."""
        return not self.is_open and len(self.ended()) >= self.tasks

    def ended(self) -> frozenset[int]:
        """Returns the numbers of the tasks that have ended, however: their positions among all tasks."""
        with suppress(OSError), (self._folder / "d_status.txt").open("rb") as stream:
            stream.seek(self._read_until)
            *lines, rest = stream.read().split(b"\n")
            self._read_until = stream.tell() - len(rest)
            # P: what each node does at its start
            fields = (line.split(b"\t", 2) for line in lines if line[3:4] != b"P")
            self._ended |= {int(field[1]) for field in fields if len(field) > 2 and field[1].isdigit()}
        return frozenset(self._ended)


def _last_lines(file: Path) -> str:
    """Returns what a log says went wrong: its last lines but for tracebacks and repetitions."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    last = list(dict.fromkeys(line for line in lines if line and _NOISE.match(line) is None))
    return "; ".join(last[-3:])[:500]


def _arguments_of_children(pid: int | None) -> Iterator[str]:
    """Yields every argument of every living child of a process."""
    if pid is None:
        return
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children():
            with suppress(psutil.Error):  # a zombie has no arguments
                yield from child.cmdline()
