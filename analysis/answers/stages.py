"""The runs of one stage of a sweep, with the names of the runs that they start from in place of their ids."""

from __future__ import annotations

import pandas as pd

from gpt_opt.errors import Problem, RequestError
from gpt_opt.records.run_reference import RunReference

STARTS = ("model.archive", "training.finetuning.resume_from_checkpoint")
"""The config keys that name a run to start from."""


def stages(runs: pd.DataFrame) -> list[str]:
    """Returns the stages of the runs of a sweep in their order; none where it has none."""
    return [name for name in runs["stage"].unique().tolist() if name] if "stage" in runs.columns else []


def of_stage(runs: pd.DataFrame, name: str | None) -> tuple[pd.DataFrame, str]:
    """Returns the runs of a stage, and its name; all runs and "" of what has no stages.

    Args:
        runs: What `load_runs` returned.
        name: Of the stage; None for the last one.

    Raises:
        RequestError: If there is no such stage.
    """
    names = stages(runs)
    if name is not None and name not in names:
        fix = f"it has {', '.join(names)}" if names else "leave it out, the runs have no stages"
        raise RequestError([Problem("--stage", f"must be a stage of the sweep, but is {name!r}", fix)])
    if not names:
        return runs, ""
    name = name or names[-1]
    return _with_names(runs[runs["stage"] == name], runs), name


def _with_names(runs: pd.DataFrame, sweep: pd.DataFrame) -> pd.DataFrame:
    names = dict(zip(sweep["run_id"], sweep["index"], strict=True))
    columns = [key for key in STARTS if key in runs.columns]
    return runs.assign(**{key: runs[key].astype("object").map(lambda value: _name(value, names)) for key in columns})


def _name(value: object, names: dict[str, str]) -> object:
    reference = RunReference.parse(value) if isinstance(value, str) and value.startswith("run:") else None
    if reference is None or reference.run_id not in names:
        return value
    return names[reference.run_id] + ("" if reference.step is None else f" at {reference.step}")
