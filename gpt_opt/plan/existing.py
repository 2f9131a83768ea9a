"""What is on disk already: where each run lies and how far it is, and the runs of earlier submissions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from gpt_opt.errors import GptOptError
from gpt_opt.records.run_dir import RunFolders, RunPaths, run_dir_name
from gpt_opt.records.state import State, StateUnreadable, has_result, read_state
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


def status_of(paths: RunPaths) -> tuple[Status, int]:
    """Returns the status of an existing run directory and its steps done.

    A directory whose state cannot be read counts as failed, never as done.
    """
    try:
        state = read_state(paths)
        if has_result(paths) and state.state is State.COMPLETED:
            return Status.DONE, state.step
    except StateUnreadable:
        return Status.FAILED, 0
    if state.state is State.RUNNING:
        return Status.RUNNING, state.step
    if state.state in (State.FAILED, State.COMPLETED):
        return Status.FAILED, state.step
    step = saved_step(paths)
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
