"""How a config names another run that it starts from, `run:ID` or `run:ID/checkpoint-STEP`, and where that lies.

The name stands in the place of a path, so that the id of a run says what it starts from and not where that is kept.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.errors import Problem, RequestError
from gpt_opt.records.run_dir import RunPaths, checkpoints, result_checkpoint, run_of, step_of
from gpt_opt.records.state import State, read_run

_TEXT = re.compile(r"^(?:run:)?([0-9a-f]{12})(?:/checkpoint-([0-9]+))?$")
_DIRECTORY = re.compile(r"-([0-9a-f]{12})$")
OUTPUT_LEVELS = 3
"""Folders between the output folder and a run directory: model, data, optimizer."""


@dataclass(frozen=True)
class RunReference:
    """Another run, or a checkpoint of it.

    Attributes:
        run_id: Its id.
        step: Optimizer steps before the checkpoint; None for the result of the run.
    """

    run_id: str
    step: int | None = None

    @classmethod
    def parse(cls, text: Any) -> RunReference | None:
        """Reads a reference; a run id alone is one too. Anything else is None."""
        found = _TEXT.match(text) if isinstance(text, str) else None
        return None if found is None else cls(found[1], None if found[2] is None else int(found[2]))

    @classmethod
    def of_folder(cls, folder: Path, output_dir: Path) -> RunReference | None:
        """Returns the reference to a run directory below an output folder, or to a checkpoint in one; else None.

        The final checkpoint of a run that is complete is its result.
        """
        real = Path(os.path.realpath(folder))
        paths = run_of(real)
        name = None if paths is None else _DIRECTORY.search(paths.root.name)
        if paths is None or name is None or paths.root.parents[OUTPUT_LEVELS] != Path(os.path.realpath(output_dir)):
            return None
        if real == paths.root or (
            result_checkpoint(paths.checkpoints) == real and read_run(paths).state is State.COMPLETED
        ):
            return cls(name[1])
        step = step_of(real)
        return None if step is None else cls(name[1], step)

    def __str__(self) -> str:
        """Returns how a config names it."""
        return f"run:{self.run_id}" + ("" if self.step is None else f"/checkpoint-{self.step}")


class RunIndex:
    """Finds run directories below output folders by their ids, listing each output folder once."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def find(self, output_dir: str, run_id: str) -> RunPaths | None:
        """Returns the directory of a run, or None."""
        if output_dir not in self._known:
            found = sorted(Path(output_dir).glob("/".join(["*"] * (OUTPUT_LEVELS + 1))), reverse=True)
            names = ((_DIRECTORY.search(folder.name), folder) for folder in found)
            self._known[output_dir] = {name[1]: str(folder) for name, folder in names if name is not None}
        folder = self._known[output_dir].get(run_id)
        return None if folder is None else RunPaths(Path(folder))


def checkpoint_of(key: str, reference: RunReference, output_dir: str, index: RunIndex | None = None) -> Path:
    """Returns the folder of the checkpoint that a reference names.

    Args:
        key: The config key that holds it, for the error.
        reference: The reference.
        output_dir: The output folder of the config.
        index: Shared by those who look for many.

    Raises:
        RequestError: If there is no such run, it is not complete although its result is asked for, or it has no such
            checkpoint.
    """
    paths = (index or RunIndex()).find(output_dir, reference.run_id)
    if paths is None:
        problem = f"must name a run in {output_dir}, but there is none with the id {reference.run_id}"
        raise RequestError([Problem(key, problem, "name its directory, or set paths.output_dir to where it lies")])
    folders = checkpoints(paths.checkpoints)
    listed = ", ".join(folder.name for folder in folders) or "none"
    if reference.step is not None:
        folder = paths.checkpoints / f"checkpoint-{reference.step}"
        if folder not in folders:
            problem = f"must name a checkpoint of {paths.root}, but checkpoint-{reference.step} is not there"
            raise RequestError([Problem(key, problem, f"it has {listed}")])
        return folder
    if (state := read_run(paths).state) is not State.COMPLETED:
        problem = f"must name a run that is COMPLETED, but {paths.root} is {state}"
        some = f"wait for its end, or name a checkpoint: {reference}/{folders[-1].name}" if folders else "run it first"
        raise RequestError([Problem(key, problem, some)])
    final = result_checkpoint(paths.checkpoints)
    if final is None or not final.is_dir():
        problem = f"must name a run that has its final checkpoint still, but {paths.root} has {listed}"
        raise RequestError([Problem(key, problem, "train it again: rerun=true")])
    return final
