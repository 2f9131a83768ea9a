"""The tree of a pipeline: which run started from which, and what came out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from analysis.parameters import shortened
from analysis.plots.boxes import LINE, PAD, SIZE, Box, Pipeline
from analysis.plots.style import NothingToPlot, new_figure, notes_legend, text_note
from gpt_opt.records.best_run import SWEEPS
from gpt_opt.records.sweep_dir import Sweep, find

MOST = 60
"""Runs that have a box each, at most; of more each stage has one."""

LIMIT = 34
"""Characters of a line."""

GAP, BETWEEN = 0.16, 0.55
"""Inches: between boxes of a column, between columns."""


def _arrange(boxes: Sequence[Box]) -> tuple[float, float]:
    """Places boxes in columns, each in the middle of those that start from it; returns width and height in inches."""
    depth: dict[object, int] = {}
    children: dict[object, list[Box]] = {}
    for box in boxes:
        depth[box.key] = 1 + max((depth[parent] for parent in box.parents), default=-1)
        children.setdefault(_main_parent(box), []).append(box)
    left = 0.0
    for column in range(max(depth.values()) + 1):
        members = [box for box in boxes if depth[box.key] == column]
        for box in members:
            box.x = left
        left += max(box.width for box in members) + BETWEEN
    bottom = 0.0

    def place(box: Box) -> None:
        nonlocal bottom
        below = children.get(box.key, [])
        if below:
            for child in below:
                place(child)
            box.y = (below[0].y + below[-1].y) / 2
        else:
            box.y = bottom + box.height / 2
            bottom += box.height + GAP

    for root in children[None]:
        place(root)
    return left - BETWEEN, bottom - GAP


def _main_parent(box: Box) -> object:
    """Returns the parent beside which a box lies: where several are possible, the one in their middle."""
    return box.parents[len(box.parents) // 2] if box.parents else None


def _draw(axes: Axes, boxes: Sequence[Box], height: float) -> None:
    by_key = {box.key: box for box in boxes}
    for box in boxes:
        y = height - box.y
        frame = FancyBboxPatch(
            (box.x, y - box.height / 2), box.width, box.height, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=box.fill, edgecolor="black", linewidth=2.4 if box.chosen else 0.8,
            linestyle="--" if box.broken else "-", zorder=2,
        )  # fmt: skip
        axes.add_patch(frame)
        top = y + LINE * (len(box.lines) - 1) / 2
        for number, line in enumerate(box.lines):
            weight = "bold" if number == 0 else "normal"
            at = (box.x + PAD, top - LINE * number)
            axes.text(*at, line, fontsize=SIZE, weight=weight, va="center", fontfamily="DejaVu Sans", zorder=3)
        for parent in (by_key[key] for key in box.parents):
            start, middle = parent.x + parent.width, box.x - BETWEEN / 2
            xs, ys = [start, middle, middle, box.x], [height - parent.y, height - parent.y, y, y]
            style = "-" if box.decided else ":"
            axes.plot(xs, ys, color="black", linewidth=1, linestyle=style, zorder=1, solid_joinstyle="round")


def pipeline(sweep: Sweep | str | os.PathLike[str], runs: pd.DataFrame) -> Figure:
    """Draws the tree of a sweep with stages: a box a run, its parameters and outcome, and what it starts from.

    Sweeps of more than `MOST` runs have a box a stage. Finished runs are shaded, those that failed have a broken frame;
    of several runs of which one is chosen, that has a thick frame.

    Args:
        sweep: The sweep, or its name or directory as `gptopt status` takes it.
        runs: What `load_runs` returned of it.

    Raises:
        NothingToPlot: If the sweep has no stages.
        RequestError: If there is no such sweep.
    """
    sweep = sweep if isinstance(sweep, Sweep) else find(os.fspath(sweep), SWEEPS)
    if not any(run.stage for run in sweep.runs):
        raise NothingToPlot(
            f"a sweep with stages is needed, but {sweep.label} has none; its runs start from nothing of the sweep"
        )
    found = Pipeline.of(sweep, runs)
    boxes = found.run_boxes() if len(found.shown) <= MOST else found.stage_boxes()
    short = shortened([line for box in boxes for line in box.lines], LIMIT)
    for box in boxes:
        box.lines = [short[line] for line in box.lines]
    width, height = _arrange(boxes)
    figure = new_figure(max(width + 0.3, 4.0), height + 0.7)
    axes = figure.subplots()
    _draw(axes, boxes, height)
    axes.set(xlim=(-0.1, max(width + 0.1, 3.8)), ylim=(-0.1, height + 0.1))
    axes.set_aspect("equal")
    axes.axis("off")
    notes = []
    if any(box.chosen for box in boxes):
        notes.append("thick frame: chosen for the next stage")
    if any(not box.decided for box in boxes):
        notes.append("dotted: not chosen yet")
    if any(box.broken for box in boxes):
        notes.append("broken frame: FAILED")
    notes_legend(figure, [text_note(note) for note in notes])
    return figure
