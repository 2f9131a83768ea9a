"""What a backend is: how slots for the runs of a sweep are asked for. One protocol, and the table of all backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from gpt_opt.dispatch.backends.disbatch import DisBatch
from gpt_opt.dispatch.backends.local import Local
from gpt_opt.dispatch.backends.submitit import Submitit
from gpt_opt.records.sweep_dir import Job, Submission, Sweep, SweepRun
from gpt_opt.sweep.model import Resources


class Backend(Protocol):
    """Asks for slots.

    Attributes:
        takes_waiting: Whether `start` is given runs before those that they start from are complete.
    """

    takes_waiting: bool

    def slots(self, resources: Resources, runs: int) -> int:
        """Returns how many of `runs` runs of one shape go at a time when the user does not say."""

    def script(self, sweep: Sweep, submission: Submission, shape: int) -> str:
        """Returns the exact text that would be submitted for the runs of a shape; writes nothing."""

    def start(self, sweep: Sweep, submission: Submission, runs: Sequence[SweepRun]) -> Iterator[list[Job]]:
        """Submits jobs for `runs` and yields each as soon as it exists, for the caller to record it.

        Raises:
            GptOptError: If no job, or not all of them, could be submitted.
        """


BACKENDS: Mapping[str, Backend] = {"disbatch": DisBatch(), "submitit": Submitit(), "local": Local()}
"""Every backend by its name."""
