"""Runs of others: what their directories tell, in the same frames as ours.

Folders of Hydra and of submitit, those of the Trainer of transformers, event files of tensorboard and offline runs of
wandb. Nothing that is read is executed: YAML is loaded safely, pickles are never opened. What cannot be known is said
in `reason`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

from analysis.files import flatten
from analysis.foreign import hydra, submitit, tensorboard, trainer, wandb
from analysis.foreign.parts import Part, merged
from analysis.run_rows import RunRow, id_in_name
from gpt_opt.records.io import number
from gpt_opt.records.step_log import NOT_METRICS

_SOURCES = (hydra, trainer, tensorboard, wandb)
"""In the order of what counts where several tell the same."""

_DEPTH = 3
"""Folders below a run in which its records are looked for: `runs/<time>/`, `wandb/offline-run-.../`."""


class Foreign:
    """Tells the directories of runs that are not ours, and remembers them."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def __call__(self, folder: str, names: Collection[str]) -> bool:
        """Returns whether a folder that holds these names is one; a directory of ours without records is none."""
        if id_in_name(folder) or "/.submitit/" in folder:
            return False
        if submitit.is_one(folder, names) or any(source.is_one(folder, names) for source in _SOURCES):
            self.found.add(folder)
            return True
        return False


def read_foreign(folder: str) -> dict[str, Part]:
    """Returns what is known of the runs in a folder, by path: of one, or of several jobs of submitit."""
    names = os.listdir(folder)
    if submitit.is_one(folder, names):
        return submitit.read(folder, names)
    return {folder: merged(_parts(folder))}


def _parts(folder: str) -> list[Part]:
    places = list(_below(folder))
    return [source.read(place) for source in _SOURCES for place, names in places if source.is_one(place, names)]


def _below(folder: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yields a folder and those below it, as deep as records lie, with their names."""
    for place, folders, files in os.walk(folder):
        yield place, [*folders, *files]
        if place.count("/") - folder.count("/") == _DEPTH:
            folders.clear()


def foreign_row(path: str, part: Part) -> RunRow:
    """Returns the row of a run of others."""
    latest = {name: value for step in sorted(part.curves) for name, value in part.curves[step].items()}
    metrics = {name: number(value) for name, value in {**latest, **part.final}.items() if name not in NOT_METRICS}
    missing = [*part.missing]
    if "state" not in part.fixed:
        missing.append("its state")
    if not metrics:
        missing.append("its metrics")
    if part.curves and part.fixed.get("step") is None:
        part.fixed["step"] = max(part.curves)
    reason = f"a run of {part.kind}" + (f"; not known: {'; '.join(missing)}" if missing else "")
    fixed = {**part.fixed, "path": path, "reason": reason}
    return RunRow(fixed, metrics, flatten(part.config), tuple(part.problems.found))
