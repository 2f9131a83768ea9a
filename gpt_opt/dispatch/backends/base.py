"""What a backend is: how slots for the runs of a sweep are asked for. One protocol, and the table of all backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from gpt_opt.dispatch.backends.disbatch import DisBatch
from gpt_opt.dispatch.backends.local import Local
from gpt_opt.dispatch.backends.submitit import Submitit
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.records.sweep_dir import Job, Submission, Sweep, SweepRun
from gpt_opt.sweep.model import Resources


class Backend(Protocol):
    """Asks for slots. Its jobs are Slurm's, or drivers on this machine (`gptopt drive`).

    Attributes:
        on_slurm: Whether its jobs are Slurm's; if not, resources that are for Slurm alone are not used.
        spans_nodes: Whether one run may have slots on several nodes.
        default_time_min: The time limit that a job would have without `time_min`, which must be given then; None where
            the site has the say, or there is no limit.
        takes_waiting: Whether `start` is given runs before those that they start from are complete.
    """

    on_slurm: bool
    spans_nodes: bool
    default_time_min: int | None
    takes_waiting: bool

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns how many of `runs` runs of one shape go at a time when the user does not say."""

    def script(self, sweep: Sweep, submission: Submission, shape: int) -> str:
        """Returns the exact text that would be submitted for the runs of a shape; writes nothing."""

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> Iterator[list[Job]]:
        """Submits jobs for `runs` and yields each as soon as it exists, for the caller to record it.

        A driver on this machine counts as alive once it has claimed the sweep: see `driver_claim.is_driven`.

        Raises:
            GptOptError: If no job, or not all of them, could be submitted.
        """


BACKENDS: Mapping[str, Backend] = {"disbatch": DisBatch(), "submitit": Submitit(), "local": Local()}
"""Every backend by its name."""


def backend_named(name: str) -> Backend:
    """Returns the backend of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in BACKENDS:
        raise ConfigError([Problem("--backend", f"must be one of {', '.join(BACKENDS)}, but is {name}")])
    return BACKENDS[name]
