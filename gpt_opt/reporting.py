"""The line that a training program adds: `gpt_opt.report(step=step, loss=loss)`, and what belongs to it.

Within a run of a sweep the process that started the program tells it, by two variables of the environment, where the
run lies and which file says that it is to stop. Without them nothing is written, so that the same program works alone.
Imports nothing but the standard library until there is something to write.
"""

from __future__ import annotations

import operator
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import SupportsFloat, SupportsIndex

RUN_DIR = "GPTOPT_RUN_DIR"
"""Variable of the environment with the run directory, absolute."""

STOP_FILE = "GPTOPT_STOP_FILE"
"""Variable of the environment with a file that is there as soon as the run should stop."""

STOP_EXIT_CODE = 128 + signal.SIGTERM
"""With what the callbacks for frameworks end a program that should stop, after its checkpoint: as SIGTERM would."""

_RANKS = ("RANK", "LOCAL_RANK")
"""Variables with the number of a process among those of one training; torchrun sets both, other launchers one."""

_next_step: dict[Path, int] = {}
"""File to the step of a row that is reported without one."""

_terminated = threading.Event()


def report(
    step: SupportsIndex | None = None, *, total_steps: SupportsIndex | None = None, **metrics: SupportsFloat
) -> None:
    """Writes metrics of a step to the metrics.jsonl of the run; of several processes of a training the first writes.

    Outside a sweep nothing is written. A name may have a slash, as in `report(step=3, **{"eval/loss": 0.5})`; NaN and
    infinities are recorded as no number.

    Args:
        step: Optimizer steps so far; without it, one more than in the row before, from 0.
        total_steps: Optimizer steps of the whole run, so that `gptopt status` can say how far it is; once is enough.
        metrics: Numbers by name, or what becomes one by `float`, such as a tensor of one element.

    Raises:
        TypeError: If a metric is no number, or a count of steps no integer.
        ValueError: If a count of steps is negative, or a metric is called `time`.
        OSError: If the row cannot be written.
    """
    count = None if step is None else _count("step", step)
    total = None if total_steps is None else _count("total_steps", total_steps)
    values = {name: _number(name, value) for name, value in metrics.items()}
    if "time" in values:
        raise ValueError("each row has its `time` already; a metric needs another name, for example time_s")
    if (folder := os.environ.get(RUN_DIR)) is None or not _writes():
        return
    from gpt_opt.records.run_dir import RunPaths
    from gpt_opt.records.step_log import MetricsLog

    file = RunPaths(Path(folder)).metrics
    log = MetricsLog(file)
    if file not in _next_step:
        _next_step[file] = log.continue_after()
    count = _next_step[file] if count is None else count
    log.append(count, values, total)
    _next_step[file] = count + 1


def _count(name: str, steps: SupportsIndex) -> int:
    try:
        count = operator.index(steps)
    except TypeError:
        raise TypeError(f"{name} must be an integer, a number of optimizer steps, but is {steps!r:.60}") from None
    if count < 0:
        raise ValueError(f"{name} must be a number of optimizer steps, from 0, but is {count}")
    return count


def _number(name: str, value: SupportsFloat) -> float:
    try:
        return value if type(value) is int else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"the metric {name} must be one number, but is {value!r:.60}: {error}") from None


def _writes() -> bool:
    """Returns whether this is the first process of a training."""
    return next((os.environ[name] for name in _RANKS if os.environ.get(name)), "0") == "0"


def checkpoint_dir() -> Path:
    """Returns the folder for the checkpoints of the run, which is made: `checkpoints` in its directory.

    Outside a sweep it is `checkpoints` in the working directory.
    """
    folder = Path(os.environ.get(RUN_DIR, ""), "checkpoints")  # RunPaths.checkpoints
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def should_stop() -> bool:
    """Returns whether the run should save a checkpoint and end; outside a sweep never.

    From the first call on SIGTERM, unless the program handles it itself, no longer ends the process: it has the grace
    of the app's gptopt.toml (`grace_s`) to save and leave. Several processes of one training may learn of it a step
    apart: let the first one ask, and broadcast the answer.
    """
    if (file := os.environ.get(STOP_FILE)) is None:
        return False
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _note)
    return _terminated.is_set() or os.path.exists(file)


def _note(number: int, frame: FrameType | None) -> None:
    _terminated.set()
