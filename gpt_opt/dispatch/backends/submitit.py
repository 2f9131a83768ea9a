"""submitit as a bringer of slots: each job of an array is one slot that executes one group of runs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_opt.dispatch.backends.plain_names import plain, program
from gpt_opt.dispatch.backends.resources import from_record
from gpt_opt.dispatch.backends.sbatch_script import import_line, option_lines, warning_s
from gpt_opt.dispatch.slot.slot import SESSION, Slot
from gpt_opt.errors import RunFailed
from gpt_opt.records.job_id import this_job
from gpt_opt.records.sweep_dir import Submission, Sweep

if TYPE_CHECKING:
    from submitit import SlurmExecutor
    from submitit.core.utils import DelayedSubmission

_MOST_REQUEUES = 1000
"""submitit counts time-outs of a job; runs make their own account, see `attempts.CAUSES`."""


class SlotJob:
    """What submitit pickles: a sweep directory and run ids, nothing else of the submitting process.

    Args:
        sweep: The sweep directory, absolute.
        run_ids: Runs that share the slot.
    """

    def __init__(self, sweep: str, run_ids: tuple[str, ...]) -> None:
        self.sweep, self.run_ids = sweep, run_ids
        self._slot: Slot | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"sweep": self.sweep, "run_ids": self.run_ids, "_slot": None}

    def __call__(self) -> None:
        """Executes the runs.

        Raises:
            RunFailed: If not all of them are COMPLETED in the end.
        """
        sweep = Sweep(Path(self.sweep))
        self._slot = Slot(sweep, {**os.environ, SESSION: this_job()})
        if not self._slot.execute([sweep.run(name) for name in self.run_ids]):
            raise RunFailed(f"not every run of {', '.join(self.run_ids)} is COMPLETED; see gptopt status {sweep.label}")

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit before the time limit or a preemption: runs checkpoint, then the job is put back."""
        from submitit.helpers import DelayedSubmission

        if self._slot is not None:
            self._slot.interrupt()
        return DelayedSubmission(SlotJob(self.sweep, self.run_ids))


def executor(sweep: Sweep, submission: Submission, arrays: int) -> SlurmExecutor:
    """Returns submitit's executor for one of `arrays` arrays of a sweep, among which its slots are shared out."""
    from submitit import SlurmExecutor

    sweep.submitit.mkdir(mode=0o700, exist_ok=True)
    # -P: else the current directory, which may be the repository, comes before the snapshot.
    python = f"{shlex.quote(sys.executable)} -P"
    chosen = SlurmExecutor(folder=plain(sweep).submitit, max_num_timeout=_MOST_REQUEUES, python=python)
    chosen.update_parameters(**_parameters(sweep, submission))
    parallel = (submission.slots or 1) // (from_record(submission.resources).runs_per_gpu or 1)
    chosen.update_parameters(array_parallelism=max(1, parallel // arrays))
    return chosen


def _parameters(sweep: Sweep, submission: Submission) -> dict[str, Any]:
    resources = from_record(submission.resources)
    together = resources.runs_per_gpu or 1
    gpus = 1 if resources.gpus_per_run is None else resources.gpus_per_run
    found: dict[str, Any] = {
        "job_name": f"{sweep.root.parent.name}-{sweep.root.name}",
        "comment": str(plain(sweep).root),
        "time": resources.time_min,
        "nodes": resources.nodes_per_run or 1,
        "ntasks_per_node": 1,
        "cpus_per_task": (resources.cpus_per_run or 1) * together,
        "gpus_per_node": gpus or None,
        "mem": None if resources.mem_gb is None else f"{round(resources.mem_gb * 1024 * together)}M",
        "partition": resources.partition,
        "qos": resources.qos,
        "account": resources.account,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "signal_delay_s": warning_s(resources),
        "setup": [
            *option_lines(resources.sbatch),  # before any command, so sbatch reads them, and the last word is theirs
            "export SLURM_EXPORT_ENV=ALL",  # submitit's srun, where the job was submitted with none
            f"GPTOPT_ROOT={shlex.quote(submission.root)}",
            f". {shlex.quote(submission.root + '/slurm_scripts/environment.sh')}",
            f"PATH=$PATH:{Path(program('gptopt')).parent}",
            *([import_line(sweep)] if submission.snapshot else []),
        ],
        "additional_parameters": {"requeue": True},
    }
    return {name: value for name, value in found.items() if value is not None}


def text(sweep: Sweep, submission: Submission) -> str:
    """Returns the batch script that submitit would submit."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = "python -P -u -m submitit.core._submit " + str(plain(sweep).submitit)
    return _make_sbatch_string(command=command, folder=plain(sweep).submitit, **_parameters(sweep, submission))
