"""What a status says of one run: what it is, how far it is, and where it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gpt_opt.dispatch.classify import Classification, RunClassifier
from gpt_opt.dispatch.progress import Metric, Progress, final_progress, read_progress
from gpt_opt.dispatch.reconcile import Ends
from gpt_opt.errors import counted
from gpt_opt.records.attempts import Attempt, History, read_history
from gpt_opt.records.efficiency import RunTimes, run_times
from gpt_opt.records.io import seconds_of
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunRecord, RunState, State, read_run
from gpt_opt.records.summary import time_s_of
from gpt_opt.records.sweep_dir import Submission, Sweep, SweepRun

_NO_PROGRESS, _NO_TIMES = Progress(), RunTimes(0)


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        run: Its line of the plan.
        paths: Its files, or where they would lie.
        what: What it is.
        step: Optimizer steps done; of a run that has stopped, those that a restart finds done.
        total_steps: Optimizer steps of the whole run; None before it is known.
        message: First line of its error; may be empty.
        silent_s: Seconds since the last heartbeat; None unless STALLED.
        progress: Latest and best metric, and speed.
        time_s: Seconds of the last attempt, of all attempts when COMPLETED; None before the first.
        attempts: How often a slot of this sweep started it.
        times: What it has taken in this sweep.
        node: Where it runs or ran last; may be empty.
        gpus: Devices of the last attempt.
        slurm_job: Slurm id of the last attempt, or of the job that is to start it; may be empty.
    """

    run: SweepRun
    paths: RunPaths
    what: Classification
    step: int = 0
    total_steps: int | None = None
    message: str = ""
    silent_s: float | None = None
    progress: Progress = _NO_PROGRESS
    time_s: float | None = None
    attempts: int = 0
    times: RunTimes = _NO_TIMES
    node: str = ""
    gpus: tuple[str, ...] = ()
    slurm_job: str = ""

    @property
    def run_dir(self) -> str:
        """Where it lies, or would lie."""
        return str(self.paths.root)

    @property
    def state(self) -> State:
        """Its state."""
        return self.what.state

    @property
    def cause(self) -> str | None:
        """Key of `attempts.CAUSES`: why it is not COMPLETED; None where there is nothing to say."""
        return self.what.cause

    @property
    def fraction(self) -> float:
        """Part of it that is done, by steps where they are known."""
        if self.what.is_done:
            return 1.0
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


class RunReader:
    """Reads the runs of one sweep; `notes` gets what cannot be read."""

    def __init__(self, sweep: Sweep, submission: Submission, metric: Metric, notes: list[str]) -> None:
        self._sweep, self._metric, self._notes = sweep, metric, notes
        self._classifier, self._program = RunClassifier(sweep, submission), submission.program
        self.paths = self._classifier.paths
        self._jobs = {index: job.id for job in submission.jobs for index in job.runs or ()}

    def history(self, run: SweepRun) -> History:
        """Reads the attempts at a run."""
        file = self._sweep.attempts(run)
        history = read_history(file)
        if history.unreadable:
            lines = counted(history.unreadable, "line")
            self._notes.append(f"run {run.index}: {file} has {lines} not written by gpt-opt, or torn")
        return history

    def read(self, run: SweepRun, history: History, ends: Ends) -> RunStatus:
        """Reads the status of one run."""
        paths = self._classifier.paths(run)
        record = read_run(paths)
        if record.problem:
            self._notes.append(f"run {run.index}: {record.problem}")
        what = self._classifier.classify(run, record, history, ends)
        node, gpus, slurm_job = self._location(run, record.file, history.last)
        counted = what.is_done or what.is_running
        times, time_s = run_times(run.shape, history.attempts, paths, record), _time_s(record, what)
        return RunStatus(
            run=run,
            paths=paths,
            what=what,
            step=record.file.step if counted else self._program.saved_step(paths) or 0,
            total_steps=record.file.total_steps,
            message=_message(record.file, history.last) if what.state is State.FAILED else "",
            silent_s=record.silent_s if what.state is State.STALLED else None,
            progress=final_progress(record.summary, self._metric)
            or self._progress(paths, seconds_of(record.file.started) if what.is_running else None),
            time_s=time_s,
            attempts=len(history.attempts),
            times=times,
            node=node,
            gpus=gpus,
            slurm_job=slurm_job,
        )

    def _progress(self, paths: RunPaths, since: float | None) -> Progress:
        try:
            return read_progress(paths.metrics, self._metric, since)
        except (OSError, TypeError) as error:
            self._notes.append(f"{paths.metrics} must hold metrics written by gpt-opt, but: {error!r}")
            return Progress()

    def _location(self, run: SweepRun, file: RunState, last: Attempt | None) -> tuple[str, tuple[str, ...], str]:
        """Returns node, GPUs and Slurm id of the newest attempt, be it in state.json already or not."""
        if last is not None and (file.started is None or file.started < last.started):
            return last.node, last.gpus, last.job.job if last.job is not None else ""
        node = (file.slurm or {}).get("slurmd_nodename") or file.host or ""
        return node, tuple(file.gpus), file.job.job if file.job is not None else self._jobs.get(run.index, "")


def _time_s(record: RunRecord, what: Classification) -> float | None:
    if what.is_done:
        return time_s_of(record.summary)
    begin = seconds_of(record.file.started)
    end = time.time() if what.is_running else seconds_of(record.file.updated)
    return None if begin is None or end is None else max(0.0, end - begin)


def _message(file: RunState, last: Attempt | None) -> str:
    if last is not None and last.message:
        return last.message
    if file.error is None:
        return ""
    lines = str(file.error.get("message", "")).strip().splitlines()
    return ": ".join([str(file.error.get("type", "Exception")), *lines[:1]])
