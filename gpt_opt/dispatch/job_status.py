"""What a status says of the jobs of a sweep: which are alive, and what the last one wrote if it started no run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gpt_opt.dispatch import slurm
from gpt_opt.records.attempts import History
from gpt_opt.records.job_id import JobId
from gpt_opt.records.sweep_dir import Submission, Sweep


@dataclass(frozen=True)
class JobStatus:
    """One job of the sweep.

    Attributes:
        id: As in submission.json.
        state: As Slurm calls it, `RUNNING` for a local driver that is alive; empty when not known.
        reason: Why it waits; may be empty.
        node: Where it runs; may be empty.
        alive: Whether it may still start or continue; None when not known.
        shape: The shape of the runs it takes; None for every shape.
    """

    id: str
    state: str = ""
    reason: str = ""
    node: str = ""
    alive: bool | None = None
    shape: int | None = None


def known_to_slurm(jobs: Sequence[str], notes: list[str]) -> dict[str, list[slurm.JobState]] | None:
    """Returns what Slurm knows of jobs; None, and a note, if it does not answer."""
    try:
        return slurm.states(jobs)
    except slurm.SlurmError as error:
        notes.append(f"Slurm does not answer: {error}; what follows is from files alone")
        return None


def job_statuses(
    submission: Submission,
    known: Mapping[str, Sequence[slurm.JobState]] | None,
    before: Mapping[str, JobStatus],
    drivers: Collection[str],
) -> Iterator[JobStatus]:
    """Yields the status of every job, oldest first.

    Args:
        submission: Names the jobs.
        known: What Slurm knows of them; None if it was not asked or did not answer.
        before: Statuses of a moment ago by job id, for jobs where Slurm was not asked.
        drivers: Drivers that work on the sweep outside of Slurm; those that no submission started come last.
    """
    for job in submission.jobs:
        if not JobId(job.id).is_slurm:
            running = job.id in drivers
            status = JobStatus(job.id, "RUNNING" if running else "", alive=running)
        elif known is None:
            status = before.get(job.id, JobStatus(job.id))
        elif states := known.get(job.id):
            status = JobStatus(job.id, states[-1].state, states[-1].reason, states[-1].node, states[-1].alive)
        else:
            status = JobStatus(job.id, alive=False)  # Slurm has forgotten it
        yield replace(status, shape=job.shape)
    recorded = {job.id for job in submission.jobs}
    yield from (JobStatus(driver, "RUNNING", alive=True) for driver in drivers if driver not in recorded)


def last_lines(sweep: Sweep, jobs: Sequence[JobStatus], histories: Iterable[History]) -> list[str]:
    """Returns the last lines that jobs wrote which ended without having started any run."""
    with_attempts = {item.job.job for history in histories for item in history.attempts if item.job is not None}
    lines: list[str] = []
    for job in jobs:
        if job.alive is False and job.state not in ("COMPLETED", "") and job.id not in with_attempts:
            for file in (*sweep.logs.glob(f"driver-{job.id}.out"), *sweep.submitit.glob(f"{job.id}_*log.err")):
                written = file.read_text(errors="replace").strip().splitlines()
                lines += [f"job {job.id} started no run and said at last: {written[-1]}"] if written else []
    return lines
