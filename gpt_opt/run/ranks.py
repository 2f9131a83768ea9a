"""Which of the processes of a run this one is, as torchrun says in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """The rank of this process in its run.

    Attributes:
        index: 0 for the process that claims the run and writes its files.
        count: Processes of the run.
    """

    index: int
    count: int


def this_rank() -> Rank:
    """Returns the rank of the calling process; the only one where nothing says otherwise."""
    if not under_torchrun():
        return Rank(0, 1)
    return Rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def under_torchrun() -> bool:
    """Returns whether torchrun, or something that sets the same variables, started this process."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()
