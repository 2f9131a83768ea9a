"""What plan and status say of stages: the tree of them, and which run another starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gpt_opt.records.run_reference import RunReference
from gpt_opt.records.sweep_dir import SweepRun
from gpt_opt.sweep.model import START_KEYS
from gpt_opt.sweep.varying import common_and_varying

_BAR = 20


def shown_overrides(run: SweepRun, names: Mapping[str, str], waits: str = "") -> tuple[str, ...]:
    """Returns the overrides of a run in which the run that it starts from has the name that people know.

    Args:
        run: The run.
        names: The names of the runs of the sweep, by run id.
        waits: What stands for the run that it starts from while that is not decided; "" where it is.
    """
    return tuple(_shown(text, names, waits) for text in run.overrides)


def _shown(text: str, names: Mapping[str, str], waits: str) -> str:
    key, _, value = text.partition("=")
    reference = RunReference.parse(value) if value.startswith("run:") else None
    if reference is None or reference.run_id not in names:
        return text
    at = "" if reference.step is None else f" at {reference.step}"
    return f"{key}={waits or names[reference.run_id]}{at}"


def common_and_shown(runs: Iterable[tuple[str, Sequence[str]]]) -> tuple[dict[str, str], list[str]]:
    """Returns what all runs share, and the keys that a table shows: those that vary among the runs of a stage.

    Args:
        runs: The stage of each, and its overrides as they are shown.
    """
    stages: dict[str, list[Sequence[str]]] = {}
    for stage, overrides in runs:
        stages.setdefault(stage, []).append(overrides)
    common, varying = common_and_varying([item for items in stages.values() for item in items])
    if len(stages) > 1:
        within = {key for items in stages.values() for key in common_and_varying(items)[1]}
        varying = [key for key in varying if key in within or key in START_KEYS]
    return common, varying


def names_of(runs: Iterable[SweepRun]) -> dict[str, str]:
    """Returns the names of runs that others may start from, by run id; none in a sweep without stages."""
    return {run.run_id: run.name for run in runs if run.stage}


def tree(stages: Sequence[str], runs: Sequence[SweepRun]) -> Iterator[tuple[str, str]]:
    """Yields each stage with its name as it stands in the tree: `└ dpo` below what it starts from."""
    stage_of = {run.index: run.stage for run in runs}
    parents = {run.stage: stage_of.get(run.parent) for run in runs if run.parent is not None}
    depths: dict[str, int] = {}
    for stage in stages:
        parent = parents.get(stage)
        depths[stage] = 0 if parent is None else depths[parent] + 1
    wide = max(2 * depth + len(stage) for stage, depth in depths.items())
    for stage, depth in depths.items():
        branch = "  " * (depth - 1) + "└ " if depth else ""
        yield stage, f"{branch}{stage}".ljust(wide)


def bar(done: int, total: int) -> str:
    """Returns how much of something is done, `[#####...............] 2/8`."""
    filled = _BAR * done // total if total else 0
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {done}/{total}"
