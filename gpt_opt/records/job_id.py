"""The one spelling of a Slurm job: its number, the task of an array, and which start of it.

`12` is job 12, `12_3` task 3 of array 12; `12.0` is the first start of job 12, `12_3.1` the first restart of that task;
`local-815` is a process outside Slurm. Files and Slurm's own commands have it in this form, so an id is its own text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_FORM = re.compile(r"(?P<array>\d+)(?P<task>_[^.]+)?(?:\.(?P<restart>\d+))?")
_LOCAL = re.compile(r"local-(\d+)")

_NAMES = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
    "SLURM_RESTART_COUNT",
    "SLURM_CLUSTER_NAME",
    "SLURMD_NODENAME",
)


class JobId(str):
    """A job, a task of an array, or a start of either; any other text names no Slurm job."""

    __slots__ = ()

    @classmethod
    def of(cls, ids: object) -> JobId | None:
        """Returns the start of a job that Slurm ids are of, None where there are none.

        Args:
            ids: As `slurm_ids` returns them and `state.json` holds them; anything else that a file holds is none.
        """
        if not isinstance(ids, Mapping) or "slurm_job_id" not in ids:
            return None
        job = ids["slurm_job_id"]
        if ids.get("slurm_array_job_id") and ids.get("slurm_array_task_id"):
            job = f"{ids['slurm_array_job_id']}_{ids['slurm_array_task_id']}"
        return cls(f"{job}.{ids.get('slurm_restart_count', '0')}")

    @property
    def is_slurm(self) -> bool:
        """Whether it is of Slurm."""
        return _FORM.fullmatch(self) is not None

    @property
    def pid(self) -> int | None:
        """The process outside Slurm that it is, None for others."""
        found = _LOCAL.fullmatch(self)
        return int(found[1]) if found else None

    @property
    def array(self) -> str:
        """The job or array without task and start, `12`: what Slurm's commands take for all tasks of it."""
        found = _FORM.fullmatch(self)
        return found["array"] if found else str(self)

    @property
    def job(self) -> JobId:
        """The job or task, whichever start of it: `12_3`."""
        found = _FORM.fullmatch(self)
        return JobId(found["array"] + (found["task"] or "")) if found else self

    @property
    def restart(self) -> int | None:
        """Which start, from 0; None where that is not said."""
        found = _FORM.fullmatch(self)
        return int(found["restart"]) if found and found["restart"] else None


def slurm_ids() -> dict[str, str] | None:
    """Returns the Slurm ids of this process by name in small letters, None outside Slurm."""
    return {name.lower(): os.environ[name] for name in _NAMES if name in os.environ} or None


def this_job() -> JobId:
    """Returns the start of the Slurm job that this process is in, else the process itself, `local-<pid>`."""
    return JobId.of(slurm_ids()) or JobId(f"local-{os.getpid()}")
