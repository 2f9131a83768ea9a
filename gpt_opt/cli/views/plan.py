"""A plan as a person reads it and as a program does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpt_opt.cli.views.parts import common_lines, parameter_columns
from gpt_opt.cli.views.stages import common_and_shown, names_of, shown_overrides, tree
from gpt_opt.errors import counted, duration
from gpt_opt.plan.dag import described, stage_of
from gpt_opt.plan.estimate import CostEstimate
from gpt_opt.plan.existing import Nearest, Status
from gpt_opt.plan.planner import Plan, Run
from gpt_opt.plan.resources import needs, to_record
from gpt_opt.records.code import other_code
from gpt_opt.sweep.model import START_KEYS, Resources
from gpt_opt.sweep.overrides import shell_word, target
from gpt_opt.sweep.varying import common_and_varying, short_names
from gpt_opt.table import Column, render, wrapped

HEAD, TAIL = 12, 3
"""Rows shown of a long plan, from its beginning and its end."""


def _table(
    runs: Sequence[Run], overrides: Mapping[int, Sequence[str]], varying: Sequence[str], width: int | None
) -> list[str]:
    shown = list(runs) if len(runs) <= HEAD + TAIL + 1 else [*runs[:HEAD], *runs[-TAIL:]]
    resumed = (Status.RESUME, Status.RUNNING)
    states = [f"{run.status} at step {run.step}" if run.status in resumed else str(run.status) for run in shown]
    states = [state + ", inputs changed" * bool(run.changed) for state, run in zip(states, shown, strict=True)]
    table = [
        Column("index", [run.name for run in shown]),
        *parameter_columns([overrides[run.index] for run in shown], varying),
        Column("run", [run.run_id for run in shown]),
        Column("status", states),
    ]
    if len(shown) < len(runs):
        marks = ["...", *[""] * (len(table) - 1)]
        cut = ([*item.cells[:HEAD], mark, *item.cells[HEAD:]] for item, mark in zip(table, marks, strict=True))
        table = [replace(item, cells=cells) for item, cells in zip(table, cut, strict=True)]
    return render(table, width)


def _cost(cost: CostEstimate, work: int, shapes: int, workload: str) -> str:
    if not work:
        return "cost: nothing to run"
    if cost.run_s is None:
        return f"cost: unknown, no finished run has the workload ({workload}) of these"
    samples = f"from {counted(cost.samples, 'finished run')} of the same workload"
    if cost.gpu_hours is None:
        unknown = f"unknown for {cost.unknown} of {counted(work, 'run')}"
        return f"cost: about {duration(cost.run_s)} a run; {unknown} ({samples})"
    each = " for each shape" if shapes > 1 else ""
    return f"cost: {_amounts(cost)}{each} ({samples})"


def _amounts(cost: CostEstimate) -> str:
    if cost.run_s is None or cost.gpu_hours is None or cost.wall_s is None:
        return ""
    hours = f"{cost.gpu_hours:.2g} GPU-hours" if cost.gpu_hours else "no GPU-hours"
    return f"about {duration(cost.run_s)} a run, {hours}, {duration(cost.wall_s)} on {counted(cost.slots, 'slot')}"


def _undecided(plan: Plan, run: Run) -> str:
    """Returns what stands for the run that another starts from where that will be chosen."""
    start = stage_of(plan.grid, run.stage).start if run.choice and run.choice not in plan.choices else None
    return "" if start is None else f"best of {start.stage}"


def _stage_lines(plan: Plan, width: int | None) -> list[str]:
    """Returns a line for each stage: its runs, what they start from, what varies among them, and what they cost."""
    lines, names = [], names_of(plan.runs)
    for name, branch in tree([stage.name for stage in plan.grid.stages], plan.runs):
        runs, cost = [run for run in plan.counted if run.stage == name], plan.stage_costs[name]
        start = described(stage_of(plan.grid, name).start)
        own = common_and_varying([shown_overrides(run, names, _undecided(plan, run)) for run in runs])[1]
        varies = [key for key in own if not (start and target(key) in _INHERITED)]
        done = sum(run.status is Status.DONE for run in runs)
        parts = [f"{counted(len(runs), 'run')}{f', {done} done' if done else ''}"]
        if start:
            candidates = {plan.runs[run.parent or 0].number for run in plan.runs if run.choice and run.stage == name}
            choice = f" ({counted(len(candidates), 'run')} to choose from)" if candidates else ""
            parts.append(f"from {start}{choice}")
        if varies:
            parts.append(f"varying {', '.join(short_names(varies).values())}")
        if cost.gpu_hours and cost.run_s:
            parts.append(f"{cost.gpu_hours:.2g} GPU-hours, {duration(cost.run_s)} a run")
        lines += wrapped(f"{branch}  {'; '.join(parts)}", width)
    return lines


_INHERITED = {*START_KEYS, "model", "seed"}
"""Keys that a run may have from the one that it starts from."""


def _shape_lines(plan: Plan, width: int | None) -> list[str]:
    """Returns a line for each shape; none where there is one alone that asks for nothing."""
    if plan.shapes == (Resources(),):
        return []
    numbers, lines = Counter(run.resources for run in plan.counted), []
    for index, (shape, cost) in enumerate(plan.costs.items()):
        amounts = f"; {_amounts(cost)}" if len(plan.shapes) > 1 and _amounts(cost) else ""
        lines += wrapped(f"shape {index}: {counted(numbers[shape], 'run')}, each {needs(shape)}{amounts}", width)
    return lines


def counts(plan: Plan) -> dict[str, int]:
    """Returns the numbers of a plan by name."""
    statuses = {str(status): plan.count(status) for status in Status}
    return {"points": plan.points, "runs": len(plan.counted), **statuses, "collapsed": len(plan.duplicates)}


def as_text(plan: Plan, width: int | None = None) -> str:
    """Returns the plan for a terminal: what all runs share, a table of what varies, counts, shapes and cost."""
    runs, names = plan.counted, names_of(plan.runs)
    overrides = {run.index: shown_overrides(run, names, _undecided(plan, run)) for run in runs}
    common, varying = common_and_shown((run.stage, overrides[run.index]) for run in runs)
    if plan.grid.is_staged:
        stages = counted(len(plan.grid.stages), "stage")
        lines = [f"sweep {plan.grid.name}: {counted(len(runs), 'run')} in {stages}", *_stage_lines(plan, width)]
    else:
        lines = [f"sweep {plan.grid.name}: {counted(plan.points, 'point')}, {counted(len(runs), 'run')}"]
    lines += [*common_lines(common, width), "", *_table(runs, overrides, varying, width), ""]
    numbers = counts(plan)
    lines.append(", ".join(f"{numbers[status]} {status}" for status in Status if numbers[status]))
    if plan.duplicates:
        pairs = [f"{point} = {first}" for point, first in list(plan.duplicates.items())[:5]]
        more = ", ..." if len(plan.duplicates) > 5 else ""
        lines.append(f"{len(plan.duplicates)} points have the config of an earlier point ({', '.join(pairs)}{more})")
    if plan.uncounted:
        keys = ", ".join(plan.uncounted)
        lines.append(f"points that differ in {keys} alone are one run, since that changes no result: the first counts")
    lines += [*plan.changes(), *other_code((run.code for run in plan.runs), plan.code)]
    warnings = (f"warning: {warning}" for warning in plan.warnings)
    lines += [line for note in (*plan.notes, *warnings) for line in wrapped(note, width)]
    if edited := plan.former.edited:
        lines.append(f"points of {counted(len(edited), 'run')} of earlier submissions compose another config now:")
        lines += [f"  {part}" for edit in plan.former.edits[:5] for part in wrapped(edit, width and width - 2)]
        lines += [f"  {folder}" for folder in list(edited.values())[:5]]
    if removed := plan.former.removed:
        verb = "is" if len(removed) == 1 else "are"
        lines.append(f"{counted(len(removed), 'run')} of earlier submissions {verb} no longer in the grid:")
        lines += [f"  {folder}" for folder in list(removed.values())[:5]]
    work = sum(run.status not in (Status.DONE, Status.RUNNING) for run in runs)
    return "\n".join([*lines, *_shape_lines(plan, width), _cost(plan.cost, work, len(plan.shapes), plan.workload)])


def as_record(plan: Plan) -> dict[str, Any]:
    """Returns the plan as JSON values."""
    items = [
        {
            "index": run.index,
            "run_id": run.run_id,
            "run_dir": run.run_dir,
            "overrides": list(run.overrides),
            "shape": run.shape,
            "stage": run.stage or None,
            "number": run.number,
            "parent": run.parent,
            "choice": run.choice or None,
            "status": str(run.status),
            "changed": run.changed,
            "code": None if run.code is None else run.code.sha256,
        }
        for run in plan.runs
    ]
    shapes = [{"resources": to_record(shape), "price": _cost_record(cost)} for shape, cost in plan.costs.items()]
    former = plan.former
    removed, edited = (
        [{"run_id": name, "run_dir": folder} for name, folder in found.items()]
        for found in (former.removed, former.edited)
    )
    head = {
        "sweep": plan.grid.name,
        **counts(plan),
        "gone": removed,
        "edited": edited,
        "edits": former.edits,
        "price": _cost_record(plan.cost),
        "code": plan.code.sha256,
    }
    stages = [
        {
            "name": stage.name,
            "from": described(stage.start) or None,
            "runs": sum(run.stage == stage.name for run in plan.counted),
            "price": _cost_record(plan.stage_costs[stage.name]),
        }
        for stage in (plan.grid.stages if plan.grid.is_staged else ())
    ]
    choices = {name: choice.parent for name, choice in plan.choices.items()}
    told = {"warnings": list(plan.warnings), "errors": []}
    return {**head, "shapes": shapes, "stages": stages, "choices": choices, **told, "items": items}


def _cost_record(cost: CostEstimate) -> dict[str, Any]:
    amounts = {"run_s": cost.run_s, "gpu_hours": cost.gpu_hours, "wall_s": cost.wall_s, "slots": cost.slots}
    return {**amounts, "unknown_runs": cost.unknown, "basis_runs": cost.samples}


def override_lines(plan: Plan) -> str:
    """Returns one line of override strings a run, quoted for a shell."""
    return "\n".join(" ".join(map(shell_word, run.overrides)) for run in plan.counted)


def explanation(run: Run, nearest: Nearest | None) -> str:
    """Returns why a run is, or is not, done already."""
    head = f"run {run.name} ({run.run_id}) is {run.status}: {run.run_dir}"
    head += f"\n{run.change}" if run.changed else ""
    if run.status is not Status.NEW or nearest is None:
        return head if nearest is not None else f"{head}\nthere is no other run to compare it with"
    lines = [head, f"the nearest existing run is {nearest.status}: {nearest.run_dir}", "it differs in:"]
    width = max((len(key) for key in nearest.differs), default=0)
    lines += [f"  {key.ljust(width)}  {there!r} there, {here!r} here" for key, (there, here) in nearest.differs.items()]
    return "\n".join(lines)
