"""The runs of a sweep that a question is about: one stage, or those at the end of its tree.

The runs that they start from are named by their stage and what varies in it, in place of their ids: runs of two seeds
that start each from the run of its own seed start from the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.parameters import format_value, short_names, varying_parameters
from gpt_opt.errors import Problem, RequestError
from gpt_opt.records.run_reference import RunReference

STAGE = "stage"
"""The column of a frame that names the stage; a key of settings where several stages are compared."""

STARTS = ("model.archive", "training.finetuning.resume_from_checkpoint")
"""The config keys that name a run to start from."""


def stages(runs: pd.DataFrame) -> list[str]:
    """Returns the stages of the runs of a sweep in their order; none where it has none."""
    return [name for name in runs[STAGE].unique().tolist() if name] if STAGE in runs.columns else []


def of_stage(runs: pd.DataFrame, name: str | None, over: str = "seed") -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Returns the runs that a question is about, and their stages; all runs and no stage of what has none.

    Args:
        runs: What `load_runs` returned.
        name: A stage; None for all those that no other stage starts from: what the sweep was made for.
        over: The config key that runs of one setting differ in: where it is that of the runs they start from, too.

    Raises:
        RequestError: If there is no such stage.
    """
    names = stages(runs)
    if name is not None and name not in names:
        fix = f"it has {', '.join(names)}" if names else "leave it out, the runs have no stages"
        raise RequestError([Problem("--stage", f"must be a stage of the sweep, but is {name!r}", fix)])
    if not names:
        return runs, ()
    chosen = [name] if name is not None else _ends(runs, names)
    return _with_names(runs[runs[STAGE].isin(chosen)], runs, over), tuple(chosen)


def _starts(runs: pd.DataFrame) -> list[str]:
    return [key for key in STARTS if key in runs.columns]


def _reference(value: object) -> RunReference | None:
    return RunReference.parse(value) if isinstance(value, str) and value.startswith("run:") else None


def _ends(runs: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Returns the stages that no other one starts from."""
    found = (_reference(value) for key in _starts(runs) for value in runs[key].unique())
    started = {reference.run_id for reference in found if reference is not None}
    inner = set(runs.loc[runs["run_id"].isin(started), STAGE])
    return [name for name in names if name not in inner]


def _with_names(runs: pd.DataFrame, sweep: pd.DataFrame, over: str) -> pd.DataFrame:
    """Returns runs that name what they start from by its stage and what varies in that, but for the seed."""
    labels: dict[str, str] = {}
    for stage in stages(sweep):
        own = _named(sweep[sweep[STAGE] == stage], labels)
        keys = [key for key in varying_parameters(own) if key != over]
        names = short_names(keys)
        for run_id, row in zip(own["run_id"], own[keys].to_dict("records"), strict=True):
            values = ", ".join(f"{names[str(key)]}={format_value(value)}" for key, value in row.items())
            labels[run_id] = f"{stage} ({values})" if values else stage
    return _named(runs, labels)


def _named(runs: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    starts = {key: runs[key].astype("object").map(lambda value: _name(value, labels)) for key in _starts(runs)}
    return runs.assign(**starts)


def _name(value: object, labels: dict[str, str]) -> object:
    reference = _reference(value)
    if reference is None or reference.run_id not in labels:
        return value
    return labels[reference.run_id] + ("" if reference.step is None else f" at {reference.step}")
