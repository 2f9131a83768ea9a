"""Existing runs: what starting one would mean, and which one is nearest to a point that is not done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from gpt_opt.app.app import App
from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.state import State, read_run


class Status(StrEnum):
    """What starting a run would mean."""

    NEW = "new"
    RESUME = "resume"
    FAILED = "failed"
    RUNNING = "running"
    DONE = "done"


_MEANS = {State.COMPLETED: Status.DONE, State.RUNNING: Status.RUNNING, State.FAILED: Status.FAILED}


def status_of(app: App, paths: RunPaths) -> tuple[Status, int]:
    """Returns what starting an existing run would mean, and its steps done.

    A directory whose records cannot be read is never done: it resumes, or starts anew.
    """
    record = read_run(paths)
    if (status := _MEANS.get(record.state)) is not None:
        return status, record.file.step
    step = app.program.saved_step(paths)  # PENDING or INTERRUPTED
    return (Status.NEW, 0) if step is None else (Status.RESUME, step)


@dataclass(frozen=True)
class Nearest:
    """The existing run that differs least from a point.

    Attributes:
        run_dir: Its directory.
        status: Its status.
        differs: Dotted key to (value of the existing run, value of the point); empty when it is the point's own run.
    """

    run_dir: Path
    status: Status
    differs: dict[str, tuple[Any, Any]]


def nearest_run(app: App, config: Mapping[str, Any]) -> Nearest | None:
    """Returns the run below the config's output folder that is nearest to it, or None when there is no run.

    Args:
        app: What the runs are of.
        config: The resolved config of a point.
    """
    if (root := app.outputs(config)) is None:
        return None
    best: Nearest | None = None
    for folder in find_run_dirs(root):
        paths = RunPaths(folder)
        try:
            differs = app.identity.differences(read_json_object(paths.config), config)
        except (OSError, ValueError):
            continue  # a run without a readable config has nothing to compare
        if best is None or len(differs) < len(best.differs):
            best = Nearest(folder, status_of(app, paths)[0], differs)
    return best
