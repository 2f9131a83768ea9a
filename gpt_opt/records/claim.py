"""Who owns a run directory: numbered claims, each created once, the highest one rules.

`claims/0001.json` is the claim of the first attempt. A process that wants the run creates the next number, which only
one process can, and only when the highest existing claim is over: released, its owner known dead, or its heartbeat
(the file's modification time) older than `STALE_AFTER_S`. Nothing is ever deleted or taken over in place, so there is
no window in which two processes own a run, and a process that slept through its own replacement sees a higher number
than its own before it writes anything that lasts.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_opt.errors import ClaimLost, GptOptError, Problem, RequestError
from gpt_opt.records.io import create_text, now, read_json_object, remove_temporaries, to_json, write_text
from gpt_opt.records.job_id import JobId, this_job
from gpt_opt.records.process import Owner, this_process
from gpt_opt.records.run_dir import RunPaths

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""How often a living owner touches its claim."""

STALE_AFTER_S = 180.0
"""A claim that was not touched for this long is over, wherever its owner is."""


class RunHeld(GptOptError):
    """Another living process owns the run."""


@dataclass(frozen=True)
class ClaimInfo:
    """A claim as read from its file.

    Attributes:
        attempt: Number of the attempt, from 1.
        owner: The process that made the claim.
        released: Whether the owner gave it back.
        age_s: Seconds since the last heartbeat.
        job: The start of the Slurm job that it was made in, or None.
    """

    attempt: int
    owner: Owner
    released: bool
    age_s: float
    job: JobId | None = None

    def is_over(self) -> bool:
        """Returns whether another process may take the run."""
        return self.released or self.owner.is_dead() or self._restarted() or self.age_s > STALE_AFTER_S

    def _restarted(self) -> bool:
        """Returns whether this process is a later start of the Slurm job that made the claim: Slurm ended the first."""
        own = this_job()
        return self.job is not None and own.job == self.job.job and (own.restart or 0) > (self.job.restart or 0)


def _record(owner: Owner) -> dict[str, Any]:
    """Returns what every claim holds."""
    job = this_job()
    return {**owner.to_record(), "slurm": [job.job, job.restart or 0] if job.is_slurm else None}


def _attempts(paths: RunPaths) -> list[int]:
    """Returns the numbers of all claims, ascending."""
    if not paths.claims.is_dir():
        return []
    return sorted(int(entry.stem) for entry in paths.claims.glob("*.json") if entry.stem.isdecimal())


def _claim_file(paths: RunPaths, attempt: int) -> Path:
    return paths.claims / f"{attempt:04d}.json"


def read_claim(paths: RunPaths) -> ClaimInfo | None:
    """Returns the highest claim of a run, or None when nobody ever claimed it.

    Raises:
        RequestError: If the claim file is not one of ours; nothing but the user can say whether it may go.
    """
    attempts = _attempts(paths)
    if not attempts:
        return None
    file = _claim_file(paths, attempts[-1])
    try:
        record = read_json_object(file)
        owner = Owner.from_record(record)
        job = JobId(f"{record['slurm'][0]}.{int(record['slurm'][1])}") if record.get("slurm") else None
        age_s = time.time() - file.stat().st_mtime
    except (OSError, ValueError, TypeError, LookupError) as error:
        message = (
            f"must be a claim written by gpt-opt, but cannot be read: {error}; remove it if nothing works on this run"
        )
        raise RequestError([Problem(str(file), message)]) from error
    return ClaimInfo(attempts[-1], owner, record.get("released") is not None, age_s, job)


@dataclass
class Claim:
    """A claim that this process holds; `with` releases it."""

    paths: RunPaths
    attempt: int
    owner: Owner
    _stop: threading.Event = field(default_factory=threading.Event)
    _beat: threading.Thread | None = None

    def __enter__(self) -> Claim:
        self._beat = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
        try:
            if self.is_mine():
                record = {**_record(self.owner), "released": now()}
                write_text(_claim_file(self.paths, self.attempt), to_json(record))
        except OSError as error:
            log.warning("%s is not given back, which this process's end will do: %s", self.paths.root, error)

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if self.is_mine():
                    os.utime(_claim_file(self.paths, self.attempt))
            except OSError as error:
                log.warning("heartbeat of %s failed, trying again in %.0f s: %s", self.paths.root, HEARTBEAT_S, error)

    def is_mine(self) -> bool:
        """Returns whether no later attempt has taken the run, nor the first of a directory that was made anew."""
        attempts = _attempts(self.paths)
        if not attempts or attempts[-1] != self.attempt:
            return False
        try:
            return Owner.from_record(read_json_object(_claim_file(self.paths, self.attempt))) == self.owner
        except (FileNotFoundError, ValueError):
            return False

    def require(self) -> None:
        """Fences every lasting write.

        Raises:
            ClaimLost: If a later attempt owns the run now, or its directory was deleted, be it made anew since.
        """
        if self.is_mine():
            return
        if max(_attempts(self.paths), default=0) > self.attempt:
            raise ClaimLost(
                f"attempt {self.attempt} of {self.paths.root} was replaced while it was silent; it stops without "
                "writing anything more"
            )
        raise ClaimLost(f"{self.paths.root} was deleted while it was being worked on; nothing more is written")


def acquire(paths: RunPaths, is_shared: bool = False) -> Claim:
    """Claims a run for this process, and clears away what those before it have half-written.

    Args:
        paths: The run.
        is_shared: Whether others write into the directory too, as they do into that of a sweep: nothing is cleared.

    Raises:
        RunHeld: If a living process owns it; the message says who.
    """
    paths.claims.mkdir(parents=True, exist_ok=True)
    owner = this_process()
    while True:
        current = read_claim(paths)
        if current is not None and not current.is_over():
            raise RunHeld(
                f"{paths.root} is being worked on by {current.owner} (attempt {current.attempt}, last heartbeat "
                f"{current.age_s:.0f} s ago); it is taken over when that process ends or is silent for "
                f"{STALE_AFTER_S:.0f} s"
            )
        attempt = current.attempt + 1 if current is not None else 1
        record = {**_record(owner), "claimed": now()}
        if create_text(_claim_file(paths, attempt), to_json(record)):
            if not is_shared:
                remove_temporaries(paths.root)
            return Claim(paths, attempt, owner)
