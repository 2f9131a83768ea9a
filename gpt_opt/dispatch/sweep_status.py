"""What can be said of a sweep now, from the files of its runs and one question to Slurm."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.resources import from_record
from gpt_opt.dispatch.driver import is_driven
from gpt_opt.dispatch.facts import JobStatus, RunStatus, Shown, SweepStatus
from gpt_opt.dispatch.failure_groups import Failure, grouped
from gpt_opt.dispatch.progress import Metric, Progress, read_progress
from gpt_opt.dispatch.reconcile import Ends, cause_of_end
from gpt_opt.errors import GptOptError
from gpt_opt.records import stop_requests as control
from gpt_opt.records.attempts import Attempt, History, read_history
from gpt_opt.records.claim import read_claim
from gpt_opt.records.code import Code, code_in, other_code
from gpt_opt.records.job_id import JobId
from gpt_opt.records.lost_nodes import read_lost_nodes
from gpt_opt.records.provenance import read_provenance
from gpt_opt.records.run_dir import RunFolders, RunPaths, saved_step
from gpt_opt.records.state import RunState, State, StateUnreadable, has_result, read_state
from gpt_opt.records.summary import read_summary
from gpt_opt.records.sweep_dir import Submission, Sweep, SweepRun

STALLED_AFTER_S = 60.0
"""Silence of a running run's owner, in seconds, after which the run is shown as STALLED."""


def _seconds(stamp: str | None) -> float | None:
    try:
        return None if stamp is None else datetime.fromisoformat(stamp).timestamp()
    except (ValueError, TypeError):
        return None  # not a time that gpt-opt wrote


class _Reader:
    """Reads the runs of one sweep.

    Args:
        sweep: The sweep.
        submission: Its submission.json.
        metric: What to read of metrics.jsonl.
        notes: Gets what could not be read.
    """

    def __init__(self, sweep: Sweep, submission: Submission, metric: Metric, notes: list[str]) -> None:
        self._sweep, self._metric, self._notes = sweep, metric, notes
        self._mem_gb = from_record(submission.resources).mem_gb
        self._cancelled = control.read(sweep.control).cancelled
        self._jobs = {index: job.id for job in submission.jobs for index in job.runs or ()}
        self._folders = RunFolders()

    def history(self, run: SweepRun) -> History:
        file = self._sweep.attempts(run)
        history = read_history(file)
        if history.unreadable:
            lines = "1 line" if history.unreadable == 1 else f"{history.unreadable} lines"
            self._notes.append(f"run {run.index}: {file} has {lines} not written by gpt-opt, or torn")
        return history

    def run(self, run: SweepRun, history: History, ends: Ends) -> RunStatus:
        """Returns the status of one run.

        Args:
            run: The run.
            history: Its attempts.
            ends: What Slurm knows of jobs.
        """
        paths = run.paths(self._folders)
        state, done = self._state(run, paths)
        history = _settled(history, ends)
        shown, due, cause = self._shown(run, state, done, history)
        last = history.last
        since = _seconds(state.started)
        item = RunStatus(
            run=run,
            run_dir=str(paths.root),
            state=shown,
            due=due,
            step=state.step,
            total_steps=state.total_steps,
            cause=cause,
            message=_message(state, last) if shown is Shown.FAILED else "",
            progress=self._progress(paths, since if shown in (Shown.RUNNING, Shown.STALLED) else None),
            starts=len(history.attempts),
            time_s=self._time_s(paths, state, shown),
        )
        if shown is Shown.RUNNING and (claim := read_claim(paths)) is not None and claim.age_s > STALLED_AFTER_S:
            item = replace(item, state=Shown.STALLED, silent_s=claim.age_s)
        return replace(item, **self._place(run, state, last))

    def _state(self, run: SweepRun, paths: RunPaths) -> tuple[RunState, bool]:
        """Returns the state, and whether the run is done; what cannot be read is noted, and guessed from the rest."""
        try:
            state = _checked(read_state(paths), paths)
            done = state.state is State.COMPLETED and has_result(paths)
            if state.state is State.COMPLETED and not done:
                self._notes.append(
                    f"run {run.index}: {paths.state} says COMPLETED, but {paths.summary} is not there; it runs again"
                )
            return state, done
        except StateUnreadable as error:
            self._notes.append(f"run {run.index}: {error}")
        try:
            claim = read_claim(paths)
        except GptOptError:
            claim = None
        if claim is not None and not claim.is_over():
            return RunState(run.run_id, State.RUNNING), False
        begun = paths.summary.exists() or saved_step(paths) is not None
        return RunState(run.run_id, State.INTERRUPTED if begun else State.PENDING), False

    def _shown(self, run: SweepRun, state: RunState, done: bool, history: History) -> tuple[Shown, bool, str | None]:
        """Returns what a run is, whether it is due and the cause, by the same rules as `drive.due`."""
        if done:
            return Shown.COMPLETED, False, None
        if state.state is State.RUNNING:
            return Shown.RUNNING, False, None
        spent = history.spent(self._mem_gb)
        if run.run_id in self._cancelled or spent == "cancelled":
            return Shown.CANCELLED, False, "cancelled"
        if spent is not None:
            return Shown.FAILED, False, spent
        cause = history.last.cause if history.last is not None else None
        if state.state is State.FAILED:
            return Shown.FAILED, True, "exception" if cause in (None, "completed") else cause
        if state.state is State.PENDING:
            return Shown.PENDING, True, cause
        return Shown.INTERRUPTED, True, cause

    def _progress(self, paths: RunPaths, since: float | None) -> Progress:
        try:
            return read_progress(paths.metrics, self._metric, since)
        except (OSError, TypeError) as error:
            self._notes.append(f"{paths.metrics} must hold metrics written by gpt-opt, but: {error!r}")
            return Progress()

    def _time_s(self, paths: RunPaths, state: RunState, shown: Shown) -> float | None:
        if shown is Shown.COMPLETED:
            value = read_summary(paths).get("time_s")
            return float(value) if isinstance(value, int | float) else None
        begin, end = _seconds(state.started), _seconds(state.updated)
        if shown is Shown.RUNNING:
            end = time.time()
        return None if begin is None or end is None else max(0.0, end - begin)

    def _place(self, run: SweepRun, state: RunState, last: Attempt | None) -> dict[str, Any]:
        """Returns node, GPUs and Slurm id of the newest start, be it in state.json already or not."""
        if last is not None and (state.started is None or state.started < last.started):
            return {"node": last.node, "gpus": last.gpus, "slurm_job": last.job.job if last.job is not None else ""}
        ids = state.slurm or {}
        place = {"node": ids.get("slurmd_nodename") or state.host or "", "gpus": tuple(state.gpus)}
        job = state.job.job if state.job is not None else self._jobs.get(run.index, "")
        return {**place, "slurm_job": job}


def _checked(state: RunState, paths: RunPaths) -> RunState:
    counted = isinstance(state.step, int) and isinstance(state.total_steps, int | None)
    if counted and isinstance(state.started, str | None) and isinstance(state.error, dict | None):
        return state
    raise StateUnreadable(f"{paths.state} must be a state written by gpt-opt, but its fields have other types")


def _message(state: RunState, last: Attempt | None) -> str:
    if last is not None and last.message:
        return last.message
    if state.error is None:
        return ""
    lines = str(state.error.get("message", "")).strip().splitlines()
    return ": ".join([str(state.error.get("type", "Exception")), *lines[:1]])


def _settled(history: History, ends: Ends) -> History:
    """Gives attempts that nobody saw end the cause that a driver would note, where their end is certain."""
    return replace(history, attempts=tuple(replace(i, cause=cause_of_end(i, ends)) for i in history.attempts))


def _job_status(job: str, states: Sequence[slurm.JobState] | None) -> JobStatus:
    if not states:
        return JobStatus(job, alive=False)  # Slurm has forgotten it
    return JobStatus(job, states[-1].state, states[-1].reason, states[-1].node, states[-1].alive)


def _jobs(
    submission: Submission,
    known: Mapping[str, Sequence[slurm.JobState]] | None,
    before: Mapping[str, JobStatus],
    driven: bool,
) -> Iterator[JobStatus]:
    for job in submission.jobs:
        if not JobId(job.id).is_slurm:
            works = driven and job is submission.jobs[-1]
            yield JobStatus(job.id, "RUNNING" if works else "", alive=works)
        elif known is None:
            yield before.get(job.id, JobStatus(job.id))
        else:
            yield _job_status(job.id, known.get(job.id))


def _ask(jobs: Sequence[str], notes: list[str]) -> dict[str, list[slurm.JobState]] | None:
    """Returns what Slurm knows; None, and a note, if it does not answer."""
    try:
        return slurm.states(jobs)
    except slurm.SlurmError as error:
        notes.append(f"Slurm does not answer: {error}; what follows is from files alone")
        return None


def gather(sweep: Sweep, ask_slurm: bool = True, before: SweepStatus | None = None) -> SweepStatus:
    """Reads a sweep and its runs, and asks Slurm at most once.

    Args:
        sweep: The sweep directory.
        ask_slurm: Whether to ask Slurm where the sweep has jobs there.
        before: A status of a moment ago: COMPLETED runs are taken from it, and jobs where Slurm is not asked.

    Raises:
        GptOptError: If the sweep directory is not one of ours.
    """
    submission, driven = sweep.submission(), is_driven(sweep)
    notes: list[str] = []
    goal = submission.metric
    metric = Metric(goal["name"], goal.get("goal", "minimize")) if goal else Metric("loss", None)
    reader = _Reader(sweep, submission, metric, notes)
    kept = {item.run.run_id: item for item in before.runs if item.state is Shown.COMPLETED} if before else {}
    histories = {run.index: reader.history(run) for run in sweep.runs if run.run_id not in kept}
    lost = {item.job.job for history in histories.values() for item in history.lost() if item.job is not None}
    jobs = sorted({job.id for job in submission.jobs if JobId(job.id).is_slurm} | lost)
    known = _ask(jobs, notes) if ask_slurm and jobs else None
    former = {job.id: job for job in before.jobs} if before is not None and not ask_slurm else {}
    runs = tuple(kept.get(run.run_id) or reader.run(run, histories[run.index], known or {}) for run in sweep.runs)
    failures = grouped(list(_failures(runs)), {item.run.index: item.run.overrides for item in runs})
    statuses = tuple(_jobs(submission, known, former, driven))
    notes += _last_words(sweep, statuses[-1:], histories.values())
    notes += other_code(_code(item) for item in runs if item.state is Shown.COMPLETED)
    notes += [f"node {node} gave no slot: {reason}" for node, reason in read_lost_nodes(sweep.lost_nodes).items()]
    return SweepStatus(sweep.label, submission, metric, runs, statuses, driven, failures, tuple(notes))


@lru_cache(maxsize=1 << 16)  # a live view asks for the same ones again and again
def _code_of(provenance: str, written_ns: int) -> Code | None:
    return code_in(read_provenance(RunPaths(Path(provenance).parent)))


def _code(item: RunStatus) -> Code | None:
    """Returns what a run was made with."""
    file = RunPaths(Path(item.run_dir)).provenance
    try:
        return _code_of(str(file), file.stat().st_mtime_ns)
    except OSError:
        return None


def _last_words(sweep: Sweep, last: Sequence[JobStatus], histories: Iterable[History]) -> list[str]:
    """Returns what the last job said at its end, where it ended without a start of any run."""
    started = {item.job.job for history in histories for item in history.attempts if item.job is not None}
    lines: list[str] = []
    for job in last:
        if job.alive is False and job.state not in ("COMPLETED", "") and job.id not in started:
            for file in (*sweep.logs.glob(f"driver-{job.id}.out"), *sweep.submitit.glob(f"{job.id}_*log.err")):
                said = file.read_text(errors="replace").strip().splitlines()
                lines += [f"job {job.id} started no run and said at last: {said[-1]}"] if said else []
    return lines


def _failures(runs: Sequence[RunStatus]) -> Iterator[Failure]:
    for item in runs:
        if item.cause is not None and item.state in (Shown.FAILED, Shown.INTERRUPTED):
            yield Failure(item.run.index, item.state, item.cause, item.message)
