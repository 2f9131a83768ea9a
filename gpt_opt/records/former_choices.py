"""The choices of a sweep that was submitted before: they hold on where it is submitted again with other runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from gpt_opt.records.choices import Choice, read_choices
from gpt_opt.records.sweep_dir import SweepRun, submissions


def former_choices(parent: Path, runs: Sequence[SweepRun]) -> dict[str, Choice]:
    """Returns the choices of the newest submission in `sweeps/<name>` that hold for a plan: those of equal candidates.

    A further run that starts from the best changes no choice; a further candidate does.
    """
    earlier, candidates = submissions(parent)[-1:], _candidates(runs)
    index = {run.run_id: run.index for run in runs}
    found: dict[str, Choice] = {}
    for sweep in earlier if candidates else ():
        before = _candidates(sweep.runs)
        ids = {run.index: run.run_id for run in sweep.runs}
        for name, choice in read_choices(sweep.choices).items():
            if name in candidates and candidates[name] == before.get(name):
                found[name] = replace(choice, parent=index[ids[choice.parent]])
    return found


def _candidates(runs: Iterable[SweepRun]) -> dict[str, set[str]]:
    """Returns the ids of the runs of which each choice takes one."""
    ids: dict[int | None, str] = {}
    found: dict[str, set[str]] = {}
    for run in runs:
        ids[run.index] = run.run_id
        if run.choice:
            found.setdefault(run.choice, set()).add(ids[run.parent])
    return found
