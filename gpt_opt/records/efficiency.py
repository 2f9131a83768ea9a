"""Sweep efficiency: the part of the allocated slot time in which runs trained, from the files of a sweep alone.

Training time is what `summary.json` has as `time_s`: evaluations and checkpoints included, starting and waiting not,
and of several attempts only the steps that count. Slot time is the number of runs at a time, multiplied by the time
from the start of a driver (of a job that was given runs of its own: of its first attempt) to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpt_opt.records.attempts import Attempt
from gpt_opt.records.drivers import Driven, read_drivers
from gpt_opt.records.io import now, seconds_of
from gpt_opt.records.job_id import JobId
from gpt_opt.records.run_dir import RunPaths, saved_progress
from gpt_opt.records.state import RunRecord, State
from gpt_opt.records.summary import time_s_of
from gpt_opt.records.sweep_dir import Shape, Submission, Sweep

Span = tuple[float, float]
"""Begin and end in seconds since 1970."""


@dataclass(frozen=True)
class Efficiency:
    """How well a sweep used its slots.

    Attributes:
        trained_s: Seconds of training, all runs together.
        allocated_s: Seconds of slots.
    """

    trained_s: float
    allocated_s: float

    @property
    def ratio(self) -> float | None:
        """The part of the slot time in which runs trained; None before a slot was there."""
        return self.trained_s / self.allocated_s if self.allocated_s > 0 else None


@dataclass(frozen=True)
class RunTimes:
    """What a run of a sweep has taken.

    Attributes:
        shape: Of what it needs.
        spans: When slots of this sweep worked on it, with the driver incarnation of each; None where it was by hand.
        trained_s: Seconds of training that count, wherever they were.
    """

    shape: int
    spans: tuple[tuple[str | None, Span], ...] = ()
    trained_s: float = 0.0

    @property
    def trained_here_s(self) -> float:
        """Seconds of training in this sweep: an attempt elsewhere has cost it nothing."""
        return min(self.trained_s, sum(end - begin for _, (begin, end) in self.spans))


def run_times(shape: int, attempts: Sequence[Attempt], paths: RunPaths, record: RunRecord) -> RunTimes:
    """Returns what a run with these attempts in a sweep has taken."""
    is_running = record.state is State.RUNNING
    spans = tuple(
        (attempt.session, span)
        for attempt in attempts
        if (span := span_of(attempt, now() if is_running else record.file.updated)) is not None
    )
    if record.state is State.COMPLETED:
        return RunTimes(shape, spans, time_s_of(record.summary) or 0.0)
    trained_s = _saved_s(paths) if spans else 0.0
    if is_running and spans and (started := seconds_of(record.file.started)) is not None:
        trained_s += max(0.0, spans[-1][1][1] - started)
    return RunTimes(shape, spans, trained_s)


def span_of(attempt: Attempt, last: str | None) -> Span | None:
    """Returns when a slot worked on an attempt; None where its start is no time that gpt-opt wrote.

    Args:
        attempt: The attempt.
        last: The last sign of life of the run, ISO 8601: the end of an attempt of which none is recorded.
    """
    if (begin := seconds_of(attempt.started)) is None:
        return None
    return begin, max(begin, seconds_of(attempt.ended) or seconds_of(last) or begin)


def _saved_s(paths: RunPaths) -> float:
    """Returns the training time up to the newest checkpoint of a run: what a restart does not lose."""
    try:
        return float(saved_progress(paths)["time_s"])
    except (ValueError, LookupError, TypeError):
        return 0.0


def efficiency(sweep: Sweep, submission: Submission, runs: Iterable[RunTimes]) -> Efficiency:
    """Returns how well a sweep used its slots so far."""
    items = list(runs)
    spans: dict[tuple[str, int], list[Span]] = {}
    by_hand_s = 0.0
    for item in items:
        for session, span in item.spans:
            if session is None:
                by_hand_s += span[1] - span[0]
            else:
                spans.setdefault((session, item.shape), []).append(span)
    driven: dict[tuple[str, int], list[Driven]] = {}
    for record in read_drivers(sweep.drivers):
        driven.setdefault((record.session, record.shape), []).append(record)
    allocated_s = by_hand_s + sum(_slot_seconds(spans.get(key, ()), records) for key, records in driven.items())
    allocated_s += _without_record(submission, {key: own for key, own in spans.items() if key not in driven})
    return Efficiency(sum(item.trained_here_s for item in items), allocated_s)


def _slot_seconds(spans: Sequence[Span], driven: Sequence[Driven]) -> float:
    """Returns the slot time of one driver and shape; one that wrote no end ended with its last run."""
    last, total = max((end for _, end in spans), default=0.0), 0.0
    for item in driven:
        begin = seconds_of(item.started)
        end = seconds_of(item.ended) or last
        total += 0.0 if begin is None else max(0.0, end - begin) * item.slots
    return total


def _without_record(submission: Submission, spans: Mapping[tuple[str, int], Sequence[Span]]) -> float:
    """Returns the slot time of jobs that were given runs, which are a slot each, and of drivers of earlier versions."""
    total, single = 0.0, {job.id for job in submission.jobs if job.runs is not None}
    for (session, shape), own in spans.items():
        slots = _at_a_time(submission.shapes[shape], JobId(session).job in single)
        total += slots * (max(end for _, end in own) - min(begin for begin, _ in own))
    return total


def _at_a_time(shape: Shape, is_one_slot: bool) -> int:
    together: int = shape.resources.get("runs_per_gpu") or 1
    return together if is_one_slot else shape.slots or together
