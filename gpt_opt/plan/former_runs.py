"""Runs of earlier submissions that a plan lacks: their points have left the grid, or compose another config now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_opt.records.planned_configs import changes_text, planned_config
from gpt_opt.records.run_id import Identity
from gpt_opt.records.sweep_dir import Sweep, SweepRun, submissions

_MOST_COMPARED = 3
"""Runs of a submission whose configs are compared: what was edited is mostly the same for all."""


@dataclass
class FormerRuns:
    """Runs that earlier submissions of a sweep have and its plan has not, by id with their directories.

    Attributes:
        removed: Those whose points are no longer in the grid.
        edited: Those whose points are there still and compose another config.
        edits: In words, in which keys.
    """

    removed: dict[str, str] = field(default_factory=dict)
    edited: dict[str, str] = field(default_factory=dict)
    edits: list[str] = field(default_factory=list)


def former_runs(
    parent: Path, runs: Sequence[SweepRun], compose: Callable[[Sequence[str]], Mapping[str, Any]], identity: Identity
) -> FormerRuns:
    """Returns the runs of earlier submissions in `sweeps/<name>` that are none of a plan.

    Args:
        parent: `sweeps/<name>`.
        runs: Those of the plan.
        compose: Returns the config of override strings.
        identity: What of a config identifies a run.
    """
    found, known, earlier = FormerRuns(), {run.run_id for run in runs}, submissions(parent)
    points = {_point(run, runs): run for run in runs} if earlier else {}
    for sweep in reversed(earlier):
        edited = 0
        for run in sweep.runs:
            if run.run_id in known:
                continue
            known.add(run.run_id)
            now = points.get(_point(run, sweep.runs))
            (found.removed if now is None else found.edited)[run.run_id] = run.run_dir
            if now is not None and edited < _MOST_COMPARED:
                edited += 1
                found.edits += filter(None, [_edit(sweep, run, compose(now.overrides), identity)])
    found.edits = list(dict.fromkeys(found.edits))
    return found


def _ancestors(run: SweepRun, runs: Sequence[SweepRun]) -> Iterator[SweepRun]:
    while run.parent is not None:
        run = runs[run.parent]
        yield run


def _point(run: SweepRun, runs: Sequence[SweepRun]) -> tuple[Any, ...]:
    """Returns what was asked for, of a run and of those that it starts from, whose ids are left out."""
    above = list(_ancestors(run, runs))
    texts = run.overrides
    for parent in above:
        texts = tuple(text.replace(parent.run_id, "") for text in texts)
    return run.stage, frozenset(texts), _point(above[0], runs) if above else ()


def _edit(sweep: Sweep, run: SweepRun, config: Mapping[str, Any], identity: Identity) -> str:
    """Returns in which keys a config differs from the one that a run was planned with; "" where that is not known."""
    planned = planned_config(sweep.planned_configs, run.run_id, identity)
    if planned is None:
        return ""
    differing = identity.differences(planned, json.loads(json.dumps(config, default=str)))
    ids = [parent.run_id for parent in _ancestors(run, sweep.runs)]  # another parent has another id
    own = {key: pair for key, pair in differing.items() if not any(name in str(pair[0]) for name in ids)}
    return changes_text(own)
