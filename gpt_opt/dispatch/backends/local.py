"""The backend local: this machine, with a driver in the background that calls disBatch on it."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.plain_names import make_links, program
from gpt_opt.dispatch.driver_claim import is_driven
from gpt_opt.errors import GptOptError
from gpt_opt.records.io import now
from gpt_opt.records.job_id import this_job
from gpt_opt.records.provenance import DEVICES
from gpt_opt.records.sweep_dir import Job, Submission, Sweep, SweepRun
from gpt_opt.run.devices import visible
from gpt_opt.run.signals import ctrl_c_deferred
from gpt_opt.sweep.model import Resources

_START_S = 30.0


class Local:
    """One driver for the runs of all shapes, one shape after the other."""

    on_slurm = False
    spans_nodes = False
    default_time_min: int | None = None
    takes_waiting = True  # its driver waits, also for runs that another sweep works on

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns what the GPUs, or the cores, of this machine take."""
        most = machine_slots(len(visible(os.environ)), resources.gpus_per_run, resources.cpus_per_run)
        return max(1, min(runs, most * (resources.runs_per_gpu or 1)))

    def script(self, sweep: Sweep, submission: Submission, shape: int) -> str:
        """Returns the command line, which is one for all shapes."""
        return f"gptopt drive {shlex.quote(str(sweep.root))}\n"

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> Iterator[list[Job]]:
        """Starts the driver; when it is recorded, waits until it has claimed the sweep."""
        make_links(sweep)
        with (sweep.logs / "driver-local.out").open("ab") as output, ctrl_c_deferred():
            process = subprocess.Popen(
                [program("gptopt"), "drive", str(sweep.root)],
                cwd=submission.cwd,
                env=_of_this_machine(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            yield [Job(f"local-{process.pid}", now())]
        deadline = time.monotonic() + _START_S
        while process.poll() is None and not is_driven(sweep) and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() not in (None, 0):
            lines = (sweep.logs / "driver-local.out").read_text(errors="replace").strip().splitlines()
            raise GptOptError(f"the driver ended at once: {lines[-1] if lines else 'it wrote nothing'}")


def machine_slots(gpus: int, gpus_per_run: int | None, cpus_per_run: int | None) -> int:
    """Returns how many runs this machine takes at a time: by its GPUs, or else by the cores that a run asks for."""
    if gpus and gpus_per_run != 0:
        return max(1, gpus // (gpus_per_run or 1))
    return max(1, len(os.sched_getaffinity(0)) // cpus_per_run) if cpus_per_run else 1


def _of_this_machine() -> dict[str, str]:
    """Returns the environment of a local driver: nothing of a surrounding job but its GPUs, for others are not ours."""
    environment = slurm.outside_job(os.environ)
    if this_job().is_slurm:
        environment[DEVICES] = ",".join(visible(os.environ))
    return environment
