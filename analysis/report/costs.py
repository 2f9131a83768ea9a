"""What a sweep cost: wall time, time of its runs and GPU-hours, from the attempts that its directory records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpt_opt.records.attempts import Attempt, read_history
from gpt_opt.records.efficiency import span_of
from gpt_opt.records.io import now, seconds_of
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State, read_run
from gpt_opt.records.sweep_dir import Shape, Sweep, SweepRun


@dataclass(frozen=True)
class Cost:
    """What a run, or several together, cost.

    Attributes:
        seconds: Time in which a slot worked on it, all attempts together.
        gpu_seconds: The same times the GPUs of each attempt, on all its nodes; 0 on CPUs.
        attempts: How often it was started.
        begin: Start of the first attempt, seconds since 1970; None without attempts.
        end: End of the last one; that of a running one is now.
    """

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    attempts: int = 0
    begin: float | None = None
    end: float | None = None


def total(costs: Iterable[Cost]) -> Cost:
    """Returns what runs cost together, from the first start to the last end."""
    items = list(costs)
    begins = [item.begin for item in items if item.begin is not None]
    ends = [item.end for item in items if item.end is not None]
    sums = (sum(item.seconds for item in items), sum(item.gpu_seconds for item in items))
    return Cost(*sums, sum(item.attempts for item in items), min(begins, default=None), max(ends, default=None))


def cost_in_sweep(sweep: Sweep, run: SweepRun, paths: RunPaths, shape: Shape) -> Cost:
    """Returns what a run cost a sweep; nothing where another sweep had made it before.

    An attempt without a recorded end counts until the last sign of life of the run, or until now if it runs. An attempt
    names the GPUs of one node; the others have as many. Of a GPU that several runs share each has its part.
    """
    history = read_history(sweep.attempts(run))
    if not history.attempts:
        return Cost()
    record = read_run(paths)
    last = now() if record.state is State.RUNNING else record.file.updated
    parts = (shape.resources.get("nodes_per_run") or 1) / (shape.resources.get("runs_per_gpu") or 1)
    return total(_cost(item, last, parts) for item in history.attempts)


def cost_of_run(paths: RunPaths, seconds: float | None) -> Cost:
    """Returns what a run cost by its own records alone.

    Args:
        paths: The run.
        seconds: Training time of all attempts, as its summary has it; None leaves that of the last attempt.
    """
    file = read_run(paths).file
    begin, end = seconds_of(file.started), seconds_of(file.updated)
    if begin is None or end is None:
        return Cost(seconds or 0.0, (seconds or 0.0) * len(file.gpus), file.attempt)
    spent = max(0.0, end - begin) if seconds is None else seconds
    return Cost(spent, spent * len(file.gpus), file.attempt, begin, end)


def _cost(attempt: Attempt, last: str | None, parts: float) -> Cost:
    if (span := span_of(attempt, last)) is None:
        return Cost(attempts=1)
    begin, end = span
    return Cost(end - begin, (end - begin) * len(attempt.gpus) * parts, 1, begin, end)
