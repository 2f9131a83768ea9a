"""What is on disk already: where each run lies and how far it is, and the runs of earlier submissions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from gpt_opt.errors import GptOptError
from gpt_opt.records.run_dir import RunFolders, RunPaths, run_dir_name
from gpt_opt.records.state import State, read_run
from gpt_opt.run.resolvers import parent_dir, run_label

NEW_DIRECTORY = "(a new directory)"
"""Stands for the run directory under paths=local_run_dir."""


class Status(StrEnum):
    """What starting a run would mean."""

    NEW = "new"
    RESUME = "resume"
    FAILED = "failed"
    RUNNING = "running"
    DONE = "done"


_MEANS = {State.COMPLETED: Status.DONE, State.RUNNING: Status.RUNNING, State.FAILED: Status.FAILED}


def status_of(paths: RunPaths) -> tuple[Status, int]:
    """Returns what starting an existing run would mean, and its steps done.

    A directory whose records cannot be read counts as failed, never as done.
    """
    record = read_run(paths)
    status = _MEANS.get(record.state, Status.FAILED if record.problem else None)
    if status is not None:
        return status, record.file.step
    step = saved_step(paths)  # PENDING or INTERRUPTED
    return (Status.NEW, 0) if step is None else (Status.RESUME, step)


def saved_step(paths: RunPaths) -> int | None:
    """Returns the step of the newest checkpoint, None where there is none."""
    saved = [path.name.rpartition("-")[2] for path in paths.checkpoints.glob("checkpoint-*")]
    return max((int(step) for step in saved if step.isdigit()), default=None)


class RunFinder:
    """Finds the directories of runs, looking into each folder of runs once."""

    def __init__(self) -> None:
        self._folders = RunFolders()
        self._parents: dict[tuple[str, ...], Path] = {}

    def _parent(self, config: Mapping[str, Any]) -> Path:
        names = (
            config["paths"]["output_dir"],
            config["model"]["name"],
            config["data"]["dataset"]["name"],
            config["optimizer"]["optimizer_params"]["name"],
        )
        if names not in self._parents:
            self._parents[names] = parent_dir(config)
        return self._parents[names]

    def find(self, config: Mapping[str, Any], run_id: str, overrides: Sequence[str]) -> tuple[str, bool]:
        """Returns where a run lies, or would lie, and whether it does; `NEW_DIRECTORY` where each start makes one."""
        if "output_dir" not in config["paths"]:
            return NEW_DIRECTORY, False
        parent = self._parent(config)
        if (found := self._folders.find(str(parent), run_id)) is not None:
            return found, True
        return f"{parent}/{run_dir_name(run_label(config, overrides), run_id)}", False


def earlier_runs(sweep_dir: Path) -> Iterator[tuple[str, str]]:
    """Yields run id and run directory of every run in the plans of earlier submissions, <sweep_dir>/<n>/plan.jsonl.

    Raises:
        GptOptError: If a plan is not one of ours.
    """
    for file in sorted(sweep_dir.glob("*/plan.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                record = json.loads(line)
                yield record["run_id"], record["run_dir"]
            except (ValueError, KeyError, TypeError) as error:
                raise GptOptError(f"{file}:{number} must be a line of a plan, but is not: {error!r}") from error
