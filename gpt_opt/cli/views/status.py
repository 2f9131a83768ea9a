"""The status of a sweep as a person reads it, and as a program does."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from gpt_opt.cli.views.parts import common_lines, one_line, parameter_columns
from gpt_opt.cli.views.stages import bar, common_and_shown, shown_overrides, tree
from gpt_opt.dispatch.classify import retry_hints
from gpt_opt.dispatch.failure_groups import FailureGroup
from gpt_opt.dispatch.job_status import JobStatus
from gpt_opt.dispatch.run_status import RunStatus
from gpt_opt.dispatch.stages import Chosen
from gpt_opt.dispatch.sweep_status import SweepStatus
from gpt_opt.errors import counted, duration
from gpt_opt.plan.resources import from_record, needs
from gpt_opt.records.efficiency import Efficiency
from gpt_opt.records.job_id import JobId
from gpt_opt.records.metrics import metric_text
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Shape
from gpt_opt.sweep.overrides import shell_word
from gpt_opt.table import Column, render, wrapped

MOST_ROWS = 200
"""Rows of a table; of a longer sweep the runs that are not COMPLETED come first."""

_MOST_GROUPS = 12
_MOST_NOTES = 12


def number_text(metric: str, value: float | None) -> str:
    """Returns the value of a metric as tables show it; "" where there is none."""
    return "" if value is None else metric_text(metric, value)


def state_text(item: RunStatus, parents: Mapping[int, str] = MappingProxyType({})) -> str:
    """Returns the state of a run with what is special about it.

    Args:
        item: The run.
        parents: Names of the runs that others start from, by index.
    """
    if item.state is State.BLOCKED and not item.run.choice and (parent := parents.get(item.run.parent or 0)):
        return f"{item.state} by {parent}"
    if item.silent_s is not None:
        return f"{item.state} for {item.silent_s:.0f} s"
    if item.state is State.FAILED and item.what.is_due:
        return f"{item.state}, will start again"
    return item.state


def steps(item: RunStatus) -> str:
    """Returns the steps done and to do, `30/100`."""
    if item.total_steps is None:
        return str(item.step) if item.step else ""
    return f"{item.step}/{item.total_steps}"


def overrides(status: SweepStatus, item: RunStatus) -> tuple[str, ...]:
    """Returns the overrides of a run; what it starts from by the name that people know."""
    choice = status.choices.get(item.run.choice)
    waits = "" if choice is None or choice.decided else "to be chosen"
    return shown_overrides(item.run, status.names, waits)


def _columns(status: SweepStatus, items: Sequence[RunStatus], varying: Sequence[str]) -> list[Column]:
    """Returns what there is to say of runs; why one is not done stands below the table."""
    parents = {item.run.index: item.run.name for item in status.runs if item.run.stage}
    rest = {
        "run": [item.run.run_id for item in items],
        "state": [state_text(item, parents) for item in items],
        "step": [steps(item) for item in items],
        status.metric.name: [number_text(status.metric.name, item.progress.latest) for item in items],
        "best": [number_text(status.metric.name, item.progress.best) for item in items],
        "time": ["" if item.time_s is None else duration(item.time_s) for item in items],
        "node": [item.node for item in items],
        "GPU": [",".join(item.gpus) for item in items],
        "Slurm": [item.slurm_job for item in items],
    }
    found = [Column("index", [item.run.name for item in items])]
    found += parameter_columns([overrides(status, item) for item in items], varying)
    return found + [Column(name, cells) for name, cells in rest.items() if any(cells)]


def _table(status: SweepStatus, varying: Sequence[str], width: int | None) -> list[str]:
    items: list[RunStatus] = list(status.runs)
    if len(items) > MOST_ROWS:
        order = list(State)
        items.sort(key=lambda item: (order.index(item.state), item.run.index))
    shown, left = items[:MOST_ROWS], Counter(item.state for item in items[MOST_ROWS:])
    lines = render(_columns(status, shown, varying), width)
    if left:
        names = ", ".join(f"{number} {state}" for state, number in left.items())
        lines.append(f"... and {sum(left.values())} more runs ({names}); --json has all")
    return lines


def _job_line(jobs: Sequence[JobStatus], one_shape: bool) -> str:
    """Returns what the living jobs of a sweep do, the tasks of an array together."""
    states: dict[str, Counter[str]] = {}
    for job in jobs:
        if job.alive is False:
            continue
        array = "_" in job.id
        label = job.state or "state unknown"
        label += f" ({job.reason})" if job.reason else f" on {job.node}" if job.node and not array else ""
        of_shape = "" if job.shape is None or one_shape else f" (shape {job.shape})"
        states.setdefault(JobId(job.id).array + "_*" * array + of_shape, Counter())[label] += 1
    parts = []
    for name, counts in states.items():
        numbers = (f"{number} {label}" if "_*" in name else label for label, number in counts.items())
        parts.append(f"{name} {', '.join(numbers)}")
    if not parts and jobs and jobs[-1].state:
        parts.append(f"none alive, the last ({jobs[-1].id}) ended as {jobs[-1].state}")
    return "jobs: " + ("; ".join(parts) or "none alive")


def _summary(status: SweepStatus) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in reversed(status.counts.items()) if number)
    parts = [counts]
    percent = math.floor(100 * status.fraction)
    if percent and not status.all_done:
        parts.append(f"{percent}% of all steps")
    if (eta_s := status.eta_s) is not None:
        parts.append(f"about {duration(eta_s)} left")
    return "; ".join(parts)


def head(status: SweepStatus) -> list[str]:
    """Returns what there is to say of a sweep as a whole, its jobs and its states."""
    shapes, backend = status.shapes, status.submission.backend
    one = len(shapes) == 1
    slots = _slots(next(iter(shapes.values()))[0]) if one else f", {len(shapes)} shapes"
    stages = len(status.submission.stages)
    number = counted(len(status.runs), "run") + (f" in {counted(stages, 'stage')}" if stages else "")
    first = f"sweep {status.label}: {number}, {backend}{slots}"
    shape_lines = [] if one else _shape_lines(status)
    lines = [first, *shape_lines, _job_line(status.jobs, one), *_stage_lines(status), _summary(status)]
    return lines + _efficiency_line(status.efficiency)


def _efficiency_line(found: Efficiency) -> list[str]:
    if found.ratio is None:
        return []
    times = f"{duration(found.trained_s)} of training in {duration(found.allocated_s)} of slots"
    return [f"sweep efficiency {found.ratio:.2f}: {times}"]


def _stage_lines(status: SweepStatus) -> list[str]:
    """Returns a line for each stage: how much of it is done, what its runs do, and what they start from."""
    stages = {stage.name: stage for stage in status.submission.stages}
    if not stages:
        return []
    lines = []
    for name, branch in tree(list(stages), [item.run for item in status.runs]):
        items = [item for item in status.runs if item.run.stage == name]
        states = Counter(item.state for item in items if not item.what.is_done)
        line = f"{branch}  {bar(len(items) - states.total(), len(items))}"
        line += "".join(f", {states[state]} {state}" for state in State if states[state])
        lines.append(line + (f"; from {stages[name].start}" if stages[name].start else ""))
    return lines + [choice_line(status, name, choice) for name, choice in status.choices.items()]


def choice_line(status: SweepStatus, name: str, choice: Chosen) -> str:
    """Returns which run was, or will be, chosen to start from."""
    runs = {item.run.index: item.run.name for item in status.runs}
    done = {item.run.index for item in status.runs if item.what.is_done}
    stage = next(item.run.stage for item in status.runs if item.run.choice == name)
    metric = next(item.metric for item in status.submission.stages if item.name == stage) or {}
    measure = metric.get("name", "")
    names = [runs[index] for index in choice.candidates]
    candidates = f"{names[0]} to {names[-1]}" if len(names) > 1 else "".join(names) or "none"
    if not choice.decided:
        until = "none of them can end without you" if choice.is_blocked else "when all of them have ended"
        if len(names) == 1:
            until = "it cannot end without you" if choice.is_blocked else "when it has ended"
        if choice.is_blocked and done & {*choice.candidates}:
            until = f"but none has {measure} in its summary.json: choose by a metric that they have, and submit again"
        return f"{name}: the best of {candidates} by {measure} will be chosen, {until}"
    value = "" if choice.value is None else f", {number_text(measure, choice.value)}"
    line = f"{name}: starts from {runs[choice.parent]}, the best of {candidates} by {measure}{value}"
    if choice.better is not None:
        again = f"gptopt retry {status.label} --state STALE starts from that"
        line += f"; {runs[choice.better]} is better now: {again}"
    return line


def _slots(shape: Shape) -> str:
    return "" if shape.slots is None else f", {counted(shape.slots, 'slot')}"


def _shape_lines(status: SweepStatus) -> list[str]:
    """Returns for each shape what a run of it needs and how many are done."""
    lines = []
    for index, (shape, items) in status.shapes.items():
        done = sum(item.state is State.COMPLETED for item in items)
        need = needs(from_record(shape.resources))
        lines.append(f"shape {index}: {counted(len(items), 'run')}, {done} COMPLETED, each {need}{_slots(shape)}")
    return lines


def _group_lines(group: FailureGroup, names: Mapping[int, str], width: int | None) -> list[str]:
    """Returns how many runs ended for one reason and which; the reason has lines of its own where that is long."""
    state = "" if group.state == State.FAILED else f"{group.state.lower()}: "
    which = ", all " + " ".join(f"{k}={one_line(v)}" for k, v in group.shared.items()) if group.shared else ""
    which = f" of {group.stage}" * bool(group.stage) + which
    which = f" (run {names[group.indices[0]]})" if len(group.indices) == 1 else which
    line = f"{len(group.indices)} x {state}{group.message}{which}"
    if width is None or len(line) <= width:
        return [line]
    head = wrapped(f"{len(group.indices)} x {state or 'failed: '}".rstrip(": ") + which, width)
    return [*head, *(f"    {part}" for part in wrapped(group.message, width - 4))]


def failure_lines(status: SweepStatus, width: int | None) -> list[str]:
    """Returns the causes why runs failed, the largest group first."""
    names = {item.run.index: item.run.name for item in status.runs}
    lines = [line for group in status.failures[:_MOST_GROUPS] for line in _group_lines(group, names, width)]
    if (more := len(status.failures) - _MOST_GROUPS) > 0:
        lines.append(f"... and {more} more causes; --json has all")
    return lines


def _notes(status: SweepStatus, width: int | None) -> list[str]:
    lines = [line for note in status.notes[:_MOST_NOTES] for line in wrapped(f"note: {note}", width)]
    if (more := len(status.notes) - _MOST_NOTES) > 0:
        lines.append(f"... and {more} more notes; --json has all")
    return lines


def advice(status: SweepStatus) -> list[str]:
    """Returns what the user can do when the sweep is not done and nothing works on it."""
    if status.all_done or not status.idle:
        return []
    submission, lines = status.submission, []
    if number := sum(item.what.is_due for item in status.runs):
        command = ["gptopt", "submit", submission.file, *submission.extra, "--backend", submission.backend]
        if not submission.file:  # the points came from a command line, not from a file
            command = ["gptopt", "drive", status.label]
        where = "" if submission.cwd == os.getcwd() else f" (in {submission.cwd})"
        runs = "1 run waits" if number == 1 else f"{number} runs wait"
        lines.append(f"{runs} and no job is alive: {' '.join(map(shell_word, command))} continues{where}")
    return lines + retry_hints(status.label, (item.what for item in status.runs))


def outcome(status: SweepStatus) -> str:
    """Returns in one line how the sweep stands: `3 of 12 done, 2 running, 7 waiting`."""
    if status.all_done:
        return f"all {len(status.runs)} runs are done" if len(status.runs) > 1 else "the run is done"
    left = Counter(item.state.lower() for item in status.runs if item.what.needs_user)
    numbers = {
        "running": sum(item.what.is_running for item in status.runs),
        "waiting": sum(item.what.is_waiting for item in status.runs),
        **left,
    }
    parts = [f"{status.counts[State.COMPLETED]} of {len(status.runs)} done"]
    parts += [f"{number} {name}" for name, number in numbers.items() if number]
    return ", ".join(parts) + (", nothing works on it" if status.idle else "")


def as_text(status: SweepStatus, width: int | None) -> str:
    """Returns a status for a terminal."""
    common, varying = common_and_shown((item.run.stage, overrides(status, item)) for item in status.runs)
    lines = [part for line in head(status) for part in wrapped(line, width)] + common_lines(common, width)
    lines += ["", *_table(status, varying, width)]
    advised = [part for line in advice(status) for part in wrapped(line, width)]
    for part in (failure_lines(status, width), _notes(status, width), advised, wrapped(outcome(status), width)):
        lines += ["", *part] if part else []
    return "\n".join(lines)


# -- for programs -----------------------------------------------------------------------------------------------------


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _item(item: RunStatus) -> dict[str, Any]:
    return {
        "index": item.run.index,
        "name": item.run.name,
        "stage": item.run.stage or None,
        "parent": item.run.parent,
        "choice": item.run.choice or None,
        "run_id": item.run.run_id,
        "run_dir": item.run_dir,
        "overrides": list(item.run.overrides),
        "shape": item.run.shape,
        "state": str(item.state),
        "due": item.what.is_due,
        "cause": item.cause,
        "message": item.message,
        "silent_s": item.silent_s,
        "step": item.step,
        "total_steps": item.total_steps,
        "metric": _json_number(item.progress.latest),
        "best": _json_number(item.progress.best),
        "steps_per_s": item.progress.steps_per_s,
        "time_s": item.time_s,
        "starts": item.attempts,
        "node": item.node or None,
        "gpus": list(item.gpus),
        "slurm_job": item.slurm_job or None,
    }


def failure_record(group: FailureGroup) -> dict[str, Any]:
    """Returns a group of failures as JSON values."""
    head = {"count": len(group.indices), "state": group.state, "cause": group.cause, "says": group.message}
    return {**head, "parameters": dict(group.shared), "indices": list(group.indices)}


def as_record(status: SweepStatus) -> dict[str, Any]:
    """Returns a status as JSON values; a metric that is NaN or infinite is null, as one that is not there."""
    jobs = [{**asdict(job), "state": job.state or None} for job in status.jobs]
    shapes = [
        {"shape": index, "resources": dict(shape.resources), "slots": shape.slots, "n": len(items)}
        for index, (shape, items) in status.shapes.items()
    ]
    return {
        "sweep": status.label,
        "file": status.submission.file,
        "backend": status.submission.backend,
        "slots": status.submission.shapes[0].slots,
        "shapes": shapes,
        "n": len(status.runs),
        "all_done": status.all_done,
        "counts": {str(state): number for state, number in status.counts.items()},
        "fraction": status.fraction,
        "eta_s": status.eta_s,
        "efficiency": status.efficiency.ratio,
        "trained_s": status.efficiency.trained_s,
        "allocated_s": status.efficiency.allocated_s,
        "alive": status.alive,
        "metric": {"name": status.metric.name, "goal": status.metric.goal},
        "stages": [{"name": stage.name, "from": stage.start or None} for stage in status.submission.stages],
        "choices": {name: asdict(choice) for name, choice in status.choices.items()},
        "jobs": jobs,
        "failures": [failure_record(group) for group in status.failures],
        "notes": list(status.notes),
        "advice": advice(status),
        "items": [_item(item) for item in status.runs],
    }
