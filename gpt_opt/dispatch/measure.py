"""How long the runs of a sweep take, as their own files tell: what a driver goes by when it hands them out."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from gpt_opt.records.attempts import History, read_history
from gpt_opt.records.io import seconds_of
from gpt_opt.records.run_dir import RunFolders, RunPaths, saved_step
from gpt_opt.records.speeds import Speed, Speeds, write_speeds
from gpt_opt.records.step_log import read_metrics
from gpt_opt.records.summary import read_summary
from gpt_opt.records.sweep_dir import Sweep, SweepRun, Workload

log = logging.getLogger(__name__)

_MOST_SAMPLES = 16
"""Newest runs of a workload that count: the first run of a slot starts slowly, those after it do not."""

_START_S = 10.0
"""Seconds of a start that are assumed where only the plan's estimate is known."""

_LOOK_AGAIN_S = 20.0


class Sample(NamedTuple):
    """What one run took.

    Attributes:
        start_s: Seconds in which it did not train.
        step_s: Seconds of a step.
    """

    start_s: float
    step_s: float


def of_finished(run: SweepRun, paths: RunPaths, history: History) -> Sample | None:
    """Returns what a run took that is COMPLETED after one attempt; None of any other, or where files do not tell."""
    attempt = history.last
    if attempt is None or len(history.attempts) > 1 or attempt.cause != "completed":
        return None
    begin, end = seconds_of(attempt.started), seconds_of(attempt.ended)
    if begin is None or end is None:
        return None
    try:
        summary = read_summary(paths)
        trained_s = float(summary["time_s"])
        steps = 1 if run.workload is not None and run.workload.whole else summary["step"]
        return Sample(max(0.0, end - begin - trained_s), trained_s / steps)
    except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError):
        return None


def of_begun(paths: RunPaths, history: History) -> Sample | None:
    """Returns what the newest attempt at a run has taken so far, by the times of its metrics: a start up to the first.

    None before it has two steps with metrics.
    """
    begin = None if history.last is None else seconds_of(history.last.started)
    if begin is None:
        return None
    with suppress(OSError):
        rows = [row for row in read_metrics(paths.metrics).records if (row.get("time") or 0.0) >= begin]
        if rows and (steps := rows[-1]["step"] - rows[0]["step"]) > 0:
            return Sample(rows[0]["time"] - begin, (rows[-1]["time"] - rows[0]["time"]) / steps)
    return None


class SpeedMeter:
    """Measures how long runs of a part of a sweep take, and writes that down in its directory.

    Args:
        sweep: The part.
        workload: Name of the only workload that is asked for; None for all.
    """

    def __init__(self, sweep: Sweep, workload: str | None = None) -> None:
        self._sweep, self._folders = sweep, RunFolders()
        works = ((run, run.workload) for run in sweep.runs if run.workload is not None)
        self._runs = [(run, work) for run, work in works if workload in (None, work.name)]
        self._workloads = {work.name: work for _, work in self._runs}
        self._finished: dict[str, deque[Sample]] = {}
        self._begun: dict[str, deque[Sample]] = {}
        self._look_at = 0.0
        self._written = Speeds()
        self.speeds = Speeds(begins=time.time())
        for run, work in reversed(self._started()):
            if len(self._finished.get(work.name, ())) < _MOST_SAMPLES:
                self.add(run)
        for samples in self._finished.values():
            samples.reverse()  # the newest last

    def set_end(self, ends: float | None) -> None:
        """Tells when the slots will warn their runs of the end, in seconds since 1970; None where they have no end."""
        self.speeds = replace(self.speeds, ends=ends)
        self.measure()

    def add(self, run: SweepRun) -> None:
        """Takes note of a run that has ended."""
        history = read_history(self._sweep.attempts(run))
        if run.workload is not None and (sample := of_finished(run, run.paths(self._folders), history)) is not None:
            self._finished.setdefault(run.workload.name, deque(maxlen=_MOST_SAMPLES)).append(sample)

    def _started(self) -> list[tuple[SweepRun, Workload]]:
        """Returns the runs that were ever started, in order: a large sweep has thousands that were not."""
        with suppress(FileNotFoundError):
            names = set(os.listdir(self._sweep.attempts_folder))
            return [item for item in self._runs if self._sweep.attempts(item[0]).name in names]
        return []

    def _look_at_begun(self) -> None:
        """Measures runs that have begun, where none of their workload has finished; at most every `_LOOK_AGAIN_S`."""
        if time.monotonic() < self._look_at:
            return
        self._begun = {}
        for run, work in self._started():
            if work.whole or work.name in self._finished:
                continue
            found = self._begun.setdefault(work.name, deque(maxlen=_MOST_SAMPLES))
            if (sample := of_begun(run.paths(self._folders), read_history(self._sweep.attempts(run)))) is not None:
                found.append(sample)
        self._look_at = time.monotonic() + _LOOK_AGAIN_S

    def measure(self) -> Speeds:
        """Returns what is known now."""
        self._look_at_begun()
        workloads = {}
        for name, work in self._workloads.items():
            if samples := self._finished.get(name):
                workloads[name] = _speed(samples, "finished runs of this sweep")
            elif samples := self._begun.get(name):
                workloads[name] = _speed(samples, "runs of this sweep that have begun")
            elif work.step_s is not None:
                workloads[name] = Speed(_START_S, work.step_s, 0, "the estimate of the plan")
        self.speeds = replace(self.speeds, workloads=workloads)
        return self.speeds

    def write(self, runs_a_line: int | None = None, left: Iterable[SweepRun] = ()) -> None:
        """Writes speeds.json, when that has changed; where that fails, once more when it changes again.

        Args:
            runs_a_line: Runs in the newest task line; None where that is as it was.
            left: Runs that are left for the next allocation.
        """
        size = self.speeds.runs_a_line if runs_a_line is None else runs_a_line
        self.speeds = replace(self.speeds, runs_a_line=size, left=tuple(run.index for run in left))
        if self.speeds != self._written:
            self._written = self.speeds
            try:
                write_speeds(self._sweep.speeds, self.speeds)
            except OSError as error:  # as of a full disk: what is lost is a hint
                log.warning("how long runs take is not written down: %s", error)

    def run_s(self, run: SweepRun) -> float | None:
        """Returns the seconds until a run that is started now ends; None where that is not known."""
        return self.speeds.run_s(run, self._resumed_step(run))

    def too_late_for(self, run: SweepRun) -> bool:
        """Returns whether a run is left for the next allocation."""
        if self.speeds.ends is None:
            return False
        return self.speeds.too_late_for(run, self._resumed_step(run), time.time()) != ""

    def _resumed_step(self, run: SweepRun) -> int:
        return resumed_step(run, run.paths(self._folders))


def resumed_step(run: SweepRun, paths: RunPaths) -> int:
    """Returns the step that a run goes on from, as its workload counts them."""
    return 0 if run.workload is not None and run.workload.whole else saved_step(paths) or 0


def _speed(samples: Sequence[Sample], source: str) -> Speed:
    start_s, step_s = (statistics.median(values) for values in zip(*samples, strict=True))
    return Speed(round(start_s, 3), round(step_s, 6), len(samples), source)
