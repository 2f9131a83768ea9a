"""Where runs lie, as users name it: a submitted sweep, or a folder of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import load_metrics, load_runs
from gpt_opt.errors import GptOptError, Problem, RequestError
from gpt_opt.records.best_run import SWEEPS
from gpt_opt.records.sweep_dir import Sweep, find


@dataclass(frozen=True)
class Place:
    """A submitted sweep, or a folder of runs.

    Attributes:
        root: Its directory, where files are saved unless the user says otherwise.
        sweep: The sweep; None for a folder.
    """

    root: Path
    sweep: Sweep | None

    def runs(self) -> pd.DataFrame:
        """Returns what `load_runs` reads there."""
        return load_runs(self.root) if self.sweep is None else load_runs(sweep=self.root)

    def metrics(self) -> pd.DataFrame:
        """Returns what `load_metrics` reads there."""
        return load_metrics(self.root) if self.sweep is None else load_metrics(sweep=self.root)

    @property
    def name(self) -> str:
        """What to call further sweeps after."""
        return "sweep" if self.sweep is None else self.sweep.submission().sweep

    @property
    def resources(self) -> dict[str, Any]:
        """What a run needs, as in the sweep file; empty of a folder."""
        return {} if self.sweep is None else self.sweep.submission().shapes[0].resources


def find_place(name: str | None) -> Place:
    """Returns what a user named.

    Args:
        name: A folder of runs, a run directory, a sweep directory, or a sweep as `gptopt status` takes it; None for
            the last sweep.

    Raises:
        GptOptError: If there is no such folder and no such sweep.
    """
    if name is not None and Path(name).is_dir() and not (Path(name) / "submission.json").is_file():
        return Place(Path(name), None)
    try:
        sweep = find(name, SWEEPS)
    except RequestError as error:
        if name is None:
            raise
        raise GptOptError(
            f"runs are read from a folder of runs or a submitted sweep, but {name} is no folder, and no sweep in "
            f"{SWEEPS.absolute()} ({error.problems[0].fix}); give for example outputs/, or the name that "
            "`gptopt submit` printed"
        ) from None
    return Place(sweep.root, sweep)


def no_runs(folder: Path) -> RequestError:
    """Returns the error of a folder without runs."""
    problem = f"must be a submitted sweep or a folder of runs, but no run lies below {str(folder)!r}"
    return RequestError([Problem("SWEEP_OR_DIR", problem, "outputs/ is where runs are written")])
