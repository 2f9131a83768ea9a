"""Hands out the runs of a round, a task line at a time, as slots become free."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from gpt_opt.dispatch.backends.disbatch import Round
from gpt_opt.dispatch.classify import BlockedBy, ClassifiedRuns, RunClassifier
from gpt_opt.dispatch.lines import line_length
from gpt_opt.dispatch.measure import SpeedMeter
from gpt_opt.dispatch.stages import classify_runs, decide, hopes
from gpt_opt.dispatch.start import start_ready
from gpt_opt.records import stop_requests
from gpt_opt.records.attempts import read_history
from gpt_opt.records.sweep_dir import Sweep, SweepRun

_SHARE = 4.0
"""A driver waits so many times as long as it takes to read a sweep before it reads it again."""

_LOOK_AHEAD = 2
"""Lines beyond those at work: disBatch hands a line out when it has read the one after it."""


class Feed:
    """Hands out the runs of a round: those that are due, then, in a sweep with stages, those that become ready.

    Args:
        sweep: The part of the sweep that is worked through.
        work: The round.
        due: What is due at its start.
        meter: Says how long runs take.

    Attributes:
        runs: All that were due so far.
        given: Those of them that were handed out.
        left: Those that are left for the next allocation.
    """

    def __init__(self, sweep: Sweep, work: Round, due: Sequence[SweepRun], meter: SpeedMeter) -> None:
        self.runs, self.given, self.left = [*due], list[SweepRun](), list[SweepRun]()
        self._sweep, self._work, self._meter = sweep, work, meter
        self._queue = [*due]
        self._alone: set[str] = set()
        self._attempts: dict[str, int] = {}
        self._hopes = hopes(Sweep(sweep.root).runs) if sweep.submission().stages else {}
        self._may_follow = bool(self._hopes)
        self._elsewhere: frozenset[int] = frozenset()
        self._wait_until = 0.0
        self._fill()

    @property
    def is_late(self) -> bool:
        """Whether runs are left for the next allocation, be it by this driver or by a slot a moment later."""
        return bool(self.left) or any(self._meter.too_late_for(run) for run in self.given)

    def go_on(self) -> None:
        """Takes note of lines that have ended, and hands out what there are slots for."""
        for line in self._work.take_ended():
            self._note_end(line)
        if self._hopes and time.monotonic() >= self._wait_until:
            self._look_for_ready()
        if self._work.is_open:
            self._fill()

    def _note_end(self, line: Sequence[SweepRun]) -> None:
        """Measures the runs of a line, and puts those that its slot has not begun back, each for a line of its own."""
        for run in line:
            self._meter.add(run)
        if len(line) > 1:
            classifier = RunClassifier(self._sweep, self._sweep.submission())
            back = [run for run in line if self._starts(run) == self._attempts[run.run_id]]
            back = [run for run in back if classifier.read(run).is_due]
            self._alone |= {run.run_id for run in back}
            self._queue[:0] = back

    def _starts(self, run: SweepRun) -> int:
        return len(read_history(self._sweep.attempts(run)).attempts)

    def _fill(self) -> None:
        """Hands out lines until enough wait for slots."""
        self._meter.measure()
        with suppress(OSError):  # it is asked again a second later
            cancelled = stop_requests.read(self._sweep.control).cancelled
            self._queue = [run for run in self._queue if run.run_id not in cancelled]  # a slot takes 2 s to find out
        length, lines = None, list[list[SweepRun]]()
        while self._queue and self._work.outstanding + len(lines) < self._work.slots + max(
            _LOOK_AHEAD, self._work.slots
        ):
            if line := self._next_line():
                lines.append(line)
                length = len(line)
        for line in lines:
            if len(line) > 1:
                self._attempts |= {run.run_id: self._starts(run) for run in line}
            self.given += line
        shared = any(len(line) > 1 for line in lines) or self._work.has_shared_lines
        self._meter.write(length, self.left)  # before a slot goes by it: what is there may be of a former allocation
        self._work.feed(lines, is_last=not (self._queue or self._may_follow or shared))
        if not self._queue and self._work.is_open:
            self._work.flush()

    def _next_line(self) -> list[SweepRun]:
        """Takes the runs of the next line from the queue; those that must wait for another allocation stay out."""
        while self._queue and self._meter.too_late_for(self._queue[0]):
            self.left.append(self._queue.pop(0))
        if not self._queue:
            return []
        together = self._work.together
        length = 1
        if self._queue[0].run_id not in self._alone:
            length = line_length(self._queue, self._work.slots, together, self._meter.run_s)
        line, self._queue = self._queue[:length], self._queue[length:]
        return line

    def _look_for_ready(self) -> None:
        """Puts what has become ready into the queue."""
        began = time.monotonic()
        decide(self._sweep)
        runs = classify_runs(Sweep(self._sweep.root))
        if self._work.is_open:
            self._add(runs)
        self._start_elsewhere(runs)
        self._wait_until = time.monotonic() + _SHARE * (time.monotonic() - began)  # a large sweep takes long to read

    def _add(self, runs: ClassifiedRuns) -> None:
        known, own = {run.run_id for run in self.runs}, [run for run in runs.items if run.shape == self._sweep.shape]
        ready = [run for run in own if runs.items[run].is_due and run.run_id not in known]
        self.runs += ready
        self._queue += ready
        at_work = self._work.at_work() | {run.index for run in self._queue}
        waiting = (run for run in own if runs.items[run].blocked_by is BlockedBy.WAIT)
        self._may_follow = any(at_work & self._hopes[run.index] for run in waiting)

    def _start_elsewhere(self, runs: ClassifiedRuns) -> None:
        """Submits jobs for runs of other shapes that have become ready, once each."""
        ready = frozenset(run.index for run in runs.due if run.shape != self._sweep.shape)
        if ready - self._elsewhere:
            self._elsewhere |= ready
            start_ready(self._sweep)
