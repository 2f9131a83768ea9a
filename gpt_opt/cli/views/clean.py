"""What `gptopt clean` shows before it removes anything."""

from __future__ import annotations

from collections.abc import Sequence

from gpt_opt.cli.views.parts import parameter_columns, size
from gpt_opt.cli.views.stages import common_and_shown, names_of, shown_overrides
from gpt_opt.cli.views.status import number_text
from gpt_opt.dispatch.clean import Metric, SavedRun
from gpt_opt.records.sweep_dir import SweepRun
from gpt_opt.table import Column, render, wrapped


def as_text(found: Sequence[SavedRun], runs: Sequence[SweepRun], metrics: Sequence[Metric], width: int | None) -> str:
    """Returns a table of the runs that have checkpoints: what becomes of these, and how large they are."""
    if not found:
        return "no run has checkpoints"
    names = names_of(runs)
    shown = dict.fromkeys(item.rank.metric for item in found if item.rank is not None)
    overrides = {item.run: shown_overrides(item.run, names) for item in found}
    _, varying = common_and_shown((run.stage, texts) for run, texts in overrides.items())
    fates = [f"kept: {item.kept}" if item.kept else "to be removed" for item in found]
    columns = [
        Column("index", [item.run.name for item in found]),
        *parameter_columns(list(overrides.values()), varying),
        Column("run", [item.run.run_id for item in found]),
        *(Column(name, [_value(item, name) for item in found], right=True) for name in shown),
        Column("size", [size(item.size) for item in found], right=True),
        Column("checkpoints", fates, flexible=True),
    ]
    kept, gone = (sum(item.size for item in found if bool(item.kept) is kept) for kept in (True, False))
    total = f"to be removed: {size(gone)}; kept: {size(kept)}"
    greater = dict(metrics)
    best = [f"{name} ({'greater' if greater[name] else 'less'} is better)" for name in shown]
    total += f"; the best by {', '.join(best)}" if best else ""
    return "\n".join([*render(columns, width), *wrapped(total, width)])


def _value(item: SavedRun, metric: str) -> str:
    return number_text(metric, item.rank.value if item.rank is not None and item.rank.metric == metric else None)
