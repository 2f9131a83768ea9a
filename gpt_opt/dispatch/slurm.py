"""What is asked of Slurm's own commands: submit, cancel, requeue, states of many jobs in one query, limits."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from gpt_opt.errors import GptOptError
from gpt_opt.records.job_id import JobId

_ENDED: Mapping[str, str | None] = {
    "COMPLETED": None,
    "FAILED": None,
    "BOOT_FAIL": "node_failure",
    "NODE_FAIL": "node_failure",
    "PREEMPTED": "preempted",
    "REQUEUED": "requeued",
    "REVOKED": "requeued",
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "OUT_OF_MEMORY": "out_of_memory",
    "CANCELLED": "stopped",
    "COMPLETING": None,
    "UNKNOWN": None,
}
"""States in which a job is over, and the cause (see `attempts.CAUSES`) that they give to a run that was cut off."""

_STARTS_AGAIN = ("REQUEUED", "PENDING", "PREEMPTED", "NODE_FAIL")
"""What accounting says last of a job that Slurm mostly starts again once it has completed."""

_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMIX_", "DISBATCH_")


_TIMEOUT_S = 20.0
_TIME = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")  # days-hours:minutes:seconds
_NOISE = re.compile(r"\**$|\*\* |\w+: error: (If munged is up|slurm_send_node_msg)")


class SlurmError(GptOptError):
    """A command of Slurm failed; the message is Slurm's."""


class _Killed(SlurmError):
    """It was ended by a signal."""


@dataclass(frozen=True)
class JobState:
    """What Slurm says of one job, or of one start of it.

    Attributes:
        id: Job id, `12` or `12_3`.
        state: First word of Slurm's state.
        reason: Why it waits, or empty.
        node: Where it runs, or empty.
    """

    id: str
    state: str
    reason: str = ""
    node: str = ""

    @property
    def alive(self) -> bool:
        """Whether the job may still start or continue."""
        return self.state not in _ENDED

    @property
    def cause(self) -> str | None:
        """The cause of an end that this state names, or None."""
        return _ENDED.get(self.state)


def is_installed() -> bool:
    """Returns whether Slurm's sbatch is on the path."""
    return shutil.which("sbatch") is not None


def outside_job(environment: Mapping[str, str], options: Iterable[str] = ()) -> dict[str, str]:
    """Returns an environment to submit from: nothing of a surrounding job, nothing that would beat `options`.

    What Slurm sets for a job (`SLURM_CPU_BIND` and so on) would bind the new job to the old one's cores; `SBATCH_*`
    variables beat the lines of a script.

    Args:
        environment: For example os.environ.
        options: `#SBATCH` options of the script, `--partition=gpu`.
    """
    names = {option.partition("=")[0].lstrip("-").replace("-", "_").upper() for option in options}
    drop = {f"SBATCH_{name}" for name in names | ({"TIMELIMIT"} if "TIME" in names else set())}
    if "SLURM_JOB_ID" in environment:
        drop |= {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES"}
    return {
        name: value
        for name, value in environment.items()
        if name == "SLURM_CONF" or not (name in drop or name.startswith(_OF_A_JOB))
    }


def run(
    command: Sequence[str], stdin: str | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 60
) -> str:
    """Runs a command of Slurm and returns its output.

    Raises:
        SlurmError: If it is missing, fails, or does not answer within `timeout_s`.
    """
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=env,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} must be on the path, but is not; is Slurm installed here?") from error
    except subprocess.TimeoutExpired as error:
        reason = _message((error.stderr or b"").decode(errors="replace"))
        raise SlurmError(
            f"{command[0]} did not answer within {timeout_s:.0f} s" + f": {reason}" * bool(reason)
        ) from error
    if done.returncode < 0:
        raise _Killed(f"{command[0]} was ended by {signal.Signals(-done.returncode).name}")
    if done.returncode != 0:
        raise SlurmError(f"{command[0]} failed: {_message(done.stderr) or _message(done.stdout)}")
    return done.stdout


def _message(text: str) -> str:
    """Returns the output of a command of Slurm in one line: the last fatal error, or all lines but repetitions."""
    lines = [line.strip() for line in text.splitlines()]
    messages = dict.fromkeys(re.sub(r"^\w+: (error|fatal): ", "", line) for line in lines if not _NOISE.match(line))
    fatal = [line.partition(": fatal: ")[2] for line in lines if ": fatal: " in line]
    return fatal[-1] if fatal else "; ".join(messages)


def problem() -> str | None:
    """Returns the error that keeps Slurm from working here, or None."""
    try:
        run(["scontrol", "ping"], timeout_s=_TIMEOUT_S)
    except SlurmError as error:
        return str(error)
    return None


def options_of(script: str) -> list[str]:
    """Returns the `#SBATCH` options of a batch script."""
    return [line.split(None, 1)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]


def sbatch(script: str, cwd: str) -> str:
    """Submits a script and returns the job id.

    Raises:
        SlurmError: If Slurm refuses it; the message is Slurm's.
    """
    environment = outside_job(os.environ, options_of(script))
    output = run(["sbatch", "--parsable", f"--chdir={cwd}"], script, environment)
    return output.strip().partition(";")[0]


def requeue(job: str) -> None:
    """Puts a running job back into the queue; Slurm ends it and starts it again under the same id."""
    with suppress(_Killed):  # the end of a job begins with all of its processes, this command among them
        run(["scontrol", "requeue", job])


def time_left_s(job: str) -> float | None:
    """Returns the seconds until the time limit of a running job; None where it has no limit.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    text = run(["squeue", "--noheader", f"--jobs={job}", "--format=%L"], timeout_s=_TIMEOUT_S).strip()
    found = _TIME.fullmatch(text)
    if found is None:
        return None  # UNLIMITED
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def cancel(jobs: Sequence[str]) -> None:
    """Ends jobs."""
    if jobs:
        run(["scancel", *jobs])


def _rows(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.splitlines() if line.strip()]


def _first(state: str) -> str:
    return (state.split() or ["UNKNOWN"])[0].rstrip("+")


def states(jobs: Sequence[str]) -> dict[str, list[JobState]]:
    """Returns what Slurm knows of jobs, the current state last: one squeue and one sacct for all of them.

    Jobs that Slurm does not know are missing. Without accounting, finished jobs are soon unknown.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    arrays = {job.array for job in map(JobId, jobs) if job.is_slurm}
    if not arrays:
        return {}
    queued = {row.id: row for row in _queued(arrays)}
    found: dict[str, list[JobState]] = {}
    accounted = _accounted(arrays)
    for row in accounted:
        # The queue decides what is alive: accounting lags behind, and keeps jobs whose end it missed.
        if row.alive and row.id in queued:
            continue
        found.setdefault(row.id, []).append(replace(row, state="UNKNOWN") if row.alive else row)
    newest = {row.id: row.state for row in accounted}
    for row in queued.values():
        if row.state == "COMPLETING" and newest.get(row.id) in _STARTS_AGAIN:
            row = replace(row, state="PENDING")  # what completes is its former start
        found.setdefault(row.id, []).append(row)
    return found


def _queued(arrays: set[str]) -> list[JobState]:
    # Asking by --jobs fails as a whole when one of them is unknown already; asking by user does not.
    rows = _rows(run(["squeue", "--noheader", "--array", "--me", "--format=%i|%T|%r|%N"], timeout_s=_TIMEOUT_S))
    return [JobState(i, _first(s), "" if r == "None" else r, n) for i, s, r, n in rows if JobId(i).array in arrays]


def _accounted(arrays: set[str]) -> list[JobState]:
    command = ["sacct", "--noheader", "--parsable2", "--duplicates", "--allocations", "--format=JobID,State,NodeList"]
    try:
        rows = _rows(run([*command, f"--jobs={','.join(sorted(arrays))}"], timeout_s=_TIMEOUT_S))
    except SlurmError:
        return []  # no accounting here: squeue and the run directories have to do
    return [JobState(i, _first(s), "", "" if n == "None assigned" else n) for i, s, n in rows]


def took_some(taken: int, asked: int, reason: str) -> str:
    """Returns what to tell a user when Slurm took only some of the jobs of a submission."""
    return (
        f"Slurm took {taken} of {asked} jobs and then refused: {reason}; what it took is recorded, and the same "
        "command submits the rest once there is room"
    )


def jobs_with_comment(comment: str) -> dict[str, str]:
    """Returns this user's jobs in the queue whose comment is `comment`, or that and more after a colon: id to the rest.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    rows = (
        row.split("|", 1)
        for row in run(["squeue", "--noheader", "--me", "--format=%i|%k"], timeout_s=_TIMEOUT_S).splitlines()
    )
    found = {row[0]: row[1].strip() for row in rows if len(row) == 2 and row[1].startswith(comment)}
    rest = {job: text.removeprefix(comment) for job, text in found.items()}
    return {job: text[1:] for job, text in rest.items() if text == "" or text.startswith(":")}


def max_array_size() -> int:
    """Returns how many tasks one job array may have here.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    found = re.search(
        r"^MaxArraySize\s*=\s*(\d+)", run(["scontrol", "show", "config"], timeout_s=_TIMEOUT_S), re.MULTILINE
    )
    # Indices must be below MaxArraySize, so this is also the number of tasks from 0.
    return int(found[1]) if found else 1001
