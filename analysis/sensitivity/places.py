"""Where the runs to compare lie: folders of runs, or submitted sweeps by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.errors import GptOptError, RequestError
from gpt_opt.records.best_run import SWEEPS
from gpt_opt.records.sweep_dir import Sweep, find


@dataclass(frozen=True)
class Places:
    """What the arguments of the command name.

    Attributes:
        folders: Folders of runs and run directories, to load.
        not_started: Planned runs without a directory: the overrides that set each apart, on a line.
        root: The first place, where files are saved unless the user says otherwise.
        name: What to call further sweeps after.
        metric: Name and goal of the metric in the sweep file; None where there is none.
        resources: What a run needs, as in the sweep file; empty where there is none.
    """

    folders: tuple[Path, ...]
    not_started: tuple[str, ...]
    root: Path
    name: str
    metric: dict[str, str] | None
    resources: dict[str, Any]


def sweep_at(name: str | None) -> Sweep | None:
    """Returns the sweep of that name or directory, the last one without a name; None for a folder of runs."""
    if name is None:
        return find(None, SWEEPS)
    if Path(name).is_dir() and not (Path(name) / "submission.json").is_file():
        return None
    try:
        return find(name, SWEEPS)
    except RequestError:
        raise GptOptError(
            f"runs are read from a folder of runs or a submitted sweep, but {name} is no folder, and no sweep in "
            f"{SWEEPS.absolute()}; give for example outputs/, or the name that `gptopt submit` printed"
        ) from None


def find_places(names: Sequence[str]) -> Places:
    """Returns where the runs lie.

    Args:
        names: At least one folder of runs, run directory, sweep directory, or name of a sweep as `gptopt status` takes.

    Raises:
        GptOptError: If there is no such folder and no such sweep, or a sweep cannot be read.
    """
    folders: list[Path] = []
    not_started: list[str] = []
    found = [sweep_at(name) for name in names]
    for name, sweep in zip(names, found, strict=True):
        if sweep is None:
            folders.append(Path(name))
            continue
        for run in sweep.runs:
            root = run.paths().root
            if root.is_dir():
                folders.append(root)
            else:
                not_started.append(f"{run.index} of {sweep.label}: {' '.join(run.overrides)}")
    runs, first = (tuple(folders), tuple(not_started)), found[0]
    if first is None:
        return Places(*runs, root=Path(names[0]), name="sweep", metric=None, resources={})
    submission = first.submission()
    return Places(*runs, first.root, submission.sweep, submission.metric, submission.shapes[0].resources)
