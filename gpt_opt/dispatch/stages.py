"""The runs of a sweep with stages: what each is, given the runs that it starts from, and which of several is chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gpt_opt.dispatch.classify import BlockedBy, Classification, ClassifiedRuns, RunClassifier
from gpt_opt.records.choices import best_of, read_choices, record_choice
from gpt_opt.records.io import lock
from gpt_opt.records.provenance import inputs_in, read_provenance
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State, read_run
from gpt_opt.records.summary import read_summary
from gpt_opt.records.sweep_dir import Submission, Sweep, SweepRun

log = logging.getLogger(__name__)


def classify_runs(sweep: Sweep) -> ClassifiedRuns:
    """Classifies every run of a sweep, or of a part of it, by files alone; without those that are not chosen."""
    submission = sweep.submission()
    if not submission.stages:
        classifier = RunClassifier(sweep, submission)
        return ClassifiedRuns({run: classifier.read(run) for run in sweep.runs})
    found, _ = _read(Sweep(sweep.root), submission)
    return ClassifiedRuns({run: item for run, item in found.items() if sweep.shape in (None, run.shape)})


def _read(sweep: Sweep, submission: Submission) -> tuple[dict[SweepRun, Classification], ChoiceReader]:
    classifier = RunClassifier(sweep, submission)
    return with_parents(sweep, submission, {run: classifier.read(run) for run in sweep.runs}, classifier.paths)


def decide(sweep: Sweep) -> None:
    """Makes the choices of a sweep for which all candidates have ended, and writes them down."""
    submission = sweep.submission()
    if any(stage.metric is not None for stage in submission.stages):
        _choose(sweep, submission, lambda name, chosen: chosen.settled)


def must_wait(sweep: Sweep, run: SweepRun) -> str:
    """Returns why a run must not be started, "" if it may: another is chosen, or its parent is not complete."""
    if run.parent is None:
        return ""
    whole = Sweep(sweep.root)
    parent = whole.runs[run.parent]
    if run.choice:
        if (chosen := sweep.chosen().get(run.choice)) is None:
            decide(sweep)  # which reads all runs, and one slot at a time
            chosen = sweep.chosen().get(run.choice)
        if chosen != run.parent:
            return "which run it starts from is not decided" if chosen is None else f"{parent.name} was not chosen"
    record = read_run(parent.paths())
    return "" if record.state is State.COMPLETED else f"{parent.name}, which it starts from, is {record.state}"


def choose_anew(sweep: Sweep, names: Set[str]) -> int:
    """Takes the run that is the best now for the named choices that took another one; returns how many that changed."""
    return _choose(sweep, sweep.submission(), lambda name, chosen: name in names and chosen.better is not None)


def _choose(sweep: Sweep, submission: Submission, is_meant: Callable[[str, Chosen], bool]) -> int:
    """Takes the best run for the choices that are meant, and writes that down; returns their number."""
    changed = 0
    with lock(sweep.root / ".choices.lock"):  # drivers of several shapes
        _, choices = _read(Sweep(sweep.root), submission)
        for name, chosen in choices.found.items():
            best = choices.best(name) if is_meant(name, chosen) else None
            if best is not None:
                metric, parent = choices.metrics[name]["name"], choices.runs[best[0]][0]
                record_choice(sweep.choices, name, best[0], metric, best[1])
                log.info("%s: %s starts from %s, with %s=%g", sweep.label, name, parent.name, metric, best[1])
                changed += 1
    return changed


def with_parents(
    sweep: Sweep,
    submission: Submission,
    items: Mapping[SweepRun, Classification],
    paths: Callable[[SweepRun], RunPaths],
) -> tuple[dict[SweepRun, Classification], ChoiceReader]:
    """Returns what runs are, as far as the runs that they start from decide it; those that are not chosen are left out.

    Args:
        sweep: The sweep, with all its runs.
        submission: Its submission.json.
        items: What each run is by itself.
        paths: Finds the files of a run.

    Returns:
        The runs, in the order of the plan, and what has become of the choices.
    """
    choices = ChoiceReader(sweep, submission, paths)
    for run, item in items.items():
        if run.parent is not None:
            if run.parent not in choices.runs:
                continue
            chosen = choices.of(run.choice) if run.choice else None
            if chosen is not None and chosen.parent != run.parent:
                continue
            parent, what = choices.runs[run.parent]
            if chosen is not None:
                item = chosen.applied_to(item)
            if chosen is None or chosen.decided:
                item = _after(item, what)
            is_stale = what.state is State.STALE or started_from_another(paths(run), paths(parent))
            if is_stale and (item.is_done or item.is_due):  # one that has begun goes on with nothing else
                item = Classification(State.STALE, None, BlockedBy.STALE)
        choices.runs[run.index] = (run, item)
    return dict(choices.runs.values()), choices


def _after(item: Classification, parent: Classification) -> Classification:
    """Returns what a run is, given what the run is that it starts from."""
    if item.is_done or item.is_locked or item.needs_user or parent.is_done:
        return item
    if parent.needs_user:
        return Classification(State.BLOCKED, None, BlockedBy.PARENT)
    return Classification(item.state, item.cause, BlockedBy.WAIT)


@dataclass(frozen=True)
class Chosen:
    """What has become of a choice.

    Attributes:
        parent: Index of the run that is started from; before it is decided, the first candidate stands for it.
        candidates: The runs among which it is chosen, in order.
        decided: Whether it is.
        value: What decided it.
        better: Index of a candidate that is better now; None where there is none.
        settled: Whether all candidates have ended, one of them COMPLETED, so that it can be decided.
        is_blocked: Whether none of the candidates can be COMPLETED without the user.
    """

    parent: int
    candidates: tuple[int, ...]
    decided: bool
    value: float | None = None
    better: int | None = None
    settled: bool = False
    is_blocked: bool = False

    def applied_to(self, item: Classification) -> Classification:
        """Returns what a run is that starts from what is chosen."""
        if not self.decided:
            blocked = Classification(State.BLOCKED, None, BlockedBy.PARENT)
            waits = Classification(State.PENDING, None, BlockedBy.WAIT)
            return blocked if self.is_blocked else waits
        if self.better is not None and not item.is_locked:
            return Classification(State.STALE, None, BlockedBy.STALE)
        return item


class ChoiceReader:
    """Says what has become of the choices of a sweep.

    Args:
        sweep: The sweep, with all its runs.
        submission: Its submission.json.
        paths: Finds the files of a run.

    Attributes:
        runs: The runs so far, by index, with what they are.
        metrics: Name and goal of the metric that decides a choice.
        found: What has become of each choice.
    """

    def __init__(self, sweep: Sweep, submission: Submission, paths: Callable[[SweepRun], RunPaths]) -> None:
        self._recorded, self._paths = read_choices(sweep.choices), paths
        stages = {stage.name: stage.metric or {} for stage in submission.stages}
        self.metrics = {run.choice: stages[run.stage] for run in sweep.runs if run.choice}
        self._candidates: dict[str, dict[int, None]] = {}
        for run in sweep.runs:
            if run.choice and run.parent is not None:
                self._candidates.setdefault(run.choice, {})[run.parent] = None
        self.runs: dict[int, tuple[SweepRun, Classification]] = {}
        self.found: dict[str, Chosen] = {}

    def of(self, name: str) -> Chosen:
        """Returns what has become of a choice, by the runs so far."""
        if name not in self.found:
            self.found[name] = self._read(name)
        return self.found[name]

    def best(self, name: str) -> tuple[int, float] | None:
        """Returns the index of the best candidate among the complete ones, with its value; None for none."""
        candidates = (self.runs[index] for index in self._candidates[name] if index in self.runs)
        return best_of(((run.index, self._paths(run)) for run, item in candidates if item.is_done), self.metrics[name])

    def _read(self, name: str) -> Chosen:
        items = {index: self.runs[index][1] for index in self._candidates[name] if index in self.runs}
        candidates, recorded, best = tuple(items), self._recorded.get(name), self.best(name)
        if recorded is not None and recorded.parent in items:
            is_there = items[recorded.parent].is_done  # and not being made anew
            better = best[0] if best is not None and best[0] != recorded.parent and is_there else None
            return Chosen(recorded.parent, candidates, True, recorded.value, better)
        ended = all(item.is_done or item.needs_user for item in items.values())
        if best is not None and ended:
            return Chosen(candidates[0], candidates, False, settled=True)
        return Chosen(candidates[0], candidates, False, is_blocked=ended)


def started_from_another(paths: RunPaths, parent: RunPaths) -> bool:
    """Returns whether a run started from a result of its parent that another has replaced since."""
    try:
        result = str(read_summary(parent).get("attempt", ""))
        started = _started_as(str(paths.provenance), paths.provenance.stat().st_mtime_ns)
    except (OSError, ValueError):
        return False  # its parent is being trained again, or was cleaned away
    return started.get(parent.root.name.rpartition("-")[2], result) not in ("", result)


@lru_cache(maxsize=1 << 16)  # a driver asks for the same ones again and again
def _started_as(provenance: str, written_ns: int) -> dict[str, str]:
    """Returns the runs that a run started from, by id, with the attempts that made their results."""
    inputs = inputs_in(read_provenance(RunPaths(Path(provenance).parent)))
    return {item["run_id"]: item.get("attempt", "") for item in inputs.values() if "run_id" in item}


def candidates(runs: Sequence[SweepRun]) -> dict[int, frozenset[int]]:
    """Returns for every run, by index, the runs one of which it starts from; empty where it starts from none."""
    of_choice: dict[str, set[int]] = {}
    for run in runs:
        if run.choice and run.parent is not None:
            of_choice.setdefault(run.choice, set()).add(run.parent)
    own = {run.index: frozenset() if run.parent is None else frozenset({run.parent}) for run in runs}
    return {run.index: frozenset(of_choice.get(run.choice, own[run.index])) for run in runs}


def hopes(runs: Sequence[SweepRun]) -> dict[int, frozenset[int]]:
    """Returns for every run, by index, those that it may have to wait for: ancestors, and candidates of choices."""
    found: dict[int, frozenset[int]] = {}
    for index, parents in candidates(runs).items():
        found[index] = parents.union(*(found[parent] for parent in parents))
    return found
