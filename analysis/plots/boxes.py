"""The boxes of a pipeline: a run each, or a stage each, with what it is and what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from analysis.parameters import short_names
from analysis.plots.style import COLORS
from gpt_opt.errors import counted
from gpt_opt.records.metrics import greater_is_better, metric_label, metric_text
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Sweep, SweepRun, active

SIZE = 8.5
"""Of text, in points."""

LINE = 0.17
"""Height of a line of text, in inches."""

PAD = 0.09
"""Room around text, in inches."""

_DONE, _OPEN = COLORS(0.75), (1.0, 1.0, 1.0, 1.0)
_FILL = {State.COMPLETED: (*_DONE[:3], 0.25), State.RUNNING: (*_DONE[:3], 0.08)}


@dataclass
class Box:
    """A run, or the runs of a stage.

    Attributes:
        key: What it stands for.
        lines: Its text, the first line bold.
        fill: Its colour.
        broken: Whether something in it failed.
        chosen: Whether a later stage starts from it, of several.
        parents: Keys of what it starts from, or may start from while that is not decided.
        decided: Whether that is decided.
        x: Left end, in inches.
        y: Middle, in inches.
    """

    key: object
    lines: list[str]
    fill: tuple[float, ...] = _OPEN
    broken: bool = False
    chosen: bool = False
    parents: list[object] = field(default_factory=list)
    decided: bool = True
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """In inches."""
        return 2 * PAD + max(_width(line, bold=index == 0) for index, line in enumerate(self.lines))

    @property
    def height(self) -> float:
        """In inches."""
        return 2 * PAD + LINE * len(self.lines)


def _width(text: str, bold: bool) -> float:
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=SIZE, prop=font).get_extents().width) / 72 if text else 0.0


def _settings(runs: Sequence[SweepRun]) -> dict[int, str]:
    """Returns what tells each run from the others of its stage: `lr=0.001, seed=1`."""
    pairs = [dict(text.lstrip("+~").partition("=")[::2] for text in run.overrides) for run in runs]
    keys = list(dict.fromkeys(key for item in pairs for key in item))
    # What a run starts from is what the lines between boxes show.
    own = [key for key in keys if not any(item.get(key, "").startswith(("run:", "best:")) for item in pairs)]
    names = short_names([key for key in own if len({item.get(key) for item in pairs}) > 1])
    return {
        run.index: ", ".join(f"{name}={item[key]}" for key, name in names.items() if key in item)
        for run, item in zip(runs, pairs, strict=True)
    }


def _outcome(row: pd.Series | None, metric: str | None) -> str:
    """Returns the value of a finished run, or its state and how far it is."""
    if row is None:
        return "PENDING"
    if row["state"] != State.COMPLETED:
        steps = "" if pd.isna(row["step"]) or pd.isna(row["total_steps"]) else f" {row['step']}/{row['total_steps']}"
        return f"{row['state']}{steps}"
    value = row.get(metric)
    return f"{metric_label(metric)} {metric_text(metric, value)}" if metric and not pd.isna(value) else ""


@dataclass(frozen=True)
class Pipeline:
    """A sweep with stages, as it is drawn.

    Attributes:
        sweep: The sweep.
        rows: A row a run, by run id.
        shown: The runs that will be made, or were.
        candidates: What each choice is made from: indices of runs, by the name of the choice.
        chosen: What it took; of choices that are made.
        metrics: The metric shown of each stage.
    """

    sweep: Sweep
    rows: dict[str, pd.Series]
    shown: list[SweepRun]
    candidates: dict[str, list[int]]
    chosen: dict[str, int]
    metrics: dict[str, str | None]

    @classmethod
    def of(cls, sweep: Sweep, runs: pd.DataFrame) -> Pipeline:
        """Gathers what is drawn."""
        all_runs, chosen, submission = sweep.runs, sweep.chosen(), sweep.submission()
        stage_of, candidates = {run.index: run.stage for run in all_runs}, dict[str, list[int]]()
        for run in all_runs:
            if run.choice and run.parent is not None and run.parent not in candidates.setdefault(run.choice, []):
                candidates[run.choice].append(run.parent)
        decided_by = {stage.name: stage.metric["name"] for stage in submission.stages if stage.metric is not None}
        judged = {stage_of[run.parent]: decided_by.get(run.stage) for run in all_runs if run.parent is not None}
        usual = None if submission.metric is None else submission.metric["name"]
        metrics = {}
        for stage in dict.fromkeys(stage_of.values()):
            rows = runs[runs["run_id"].isin([run.run_id for run in all_runs if run.stage == stage])]
            wanted = (judged.get(stage), usual, "eval/loss", "loss")
            metrics[stage] = next((name for name in wanted if name in rows.columns and rows[name].notna().any()), None)
        made = active(all_runs, chosen)
        rows_of = {row["run_id"]: row for _, row in runs.iterrows()}
        return cls(sweep, rows_of, [run for run in all_runs if run.index in made], candidates, chosen, metrics)

    def run_boxes(self) -> list[Box]:
        """Returns a box a run, parents before those that start from them."""
        stages = dict.fromkeys(run.stage for run in self.shown)
        texts = {
            index: text
            for stage in stages
            for index, text in _settings([run for run in self.shown if run.stage == stage]).items()
        }
        taken = set(self.chosen.values())
        boxes = []
        for run in self.shown:
            row = self.rows.get(run.run_id)
            state = State.PENDING if row is None or pd.isna(row["state"]) else State(row["state"])
            open_choice = run.choice != "" and run.choice not in self.chosen
            parents = self.candidates[run.choice] if open_choice else [run.parent] if run.parent is not None else []
            box = Box(
                run.index,
                [line for line in (run.name, texts[run.index], _outcome(row, self.metrics[run.stage])) if line],
                _FILL.get(state, _OPEN),
                state is State.FAILED,
                run.index in taken,
                list(parents),
                not open_choice,
            )
            boxes.append(box)
        return boxes

    def stage_boxes(self) -> list[Box]:
        """Returns a box a stage, for sweeps with very many runs."""
        stage_of = {run.index: run.stage for run in self.sweep.runs}
        boxes = []
        for stage in dict.fromkeys(run.stage for run in self.shown):
            own = [run for run in self.shown if run.stage == stage]
            rows = [self.rows[run.run_id] for run in own if run.run_id in self.rows]
            states = Counter(str(row["state"]) for row in rows)
            states["PENDING"] += len(own) - len(rows)
            lines = [stage, counted(len(own), "run"), *(f"{count} {state}" for state, count in states.items() if count)]
            metric = self.metrics[stage]
            values = [row[metric] for row in rows if metric and row["state"] == State.COMPLETED]
            values = [value for value in values if not pd.isna(value)]
            if metric and values:
                best = max(values) if greater_is_better(metric) else min(values)
                lines.append(f"best {metric_label(metric)} {metric_text(metric, best)}")
            parents = dict.fromkeys(stage_of[run.parent] for run in own if run.parent is not None)
            done = states[State.COMPLETED] == len(own)
            fill = _FILL[State.COMPLETED] if done else _OPEN
            boxes.append(Box(stage, lines, fill, bool(states[State.FAILED]), parents=list(parents)))
        return boxes
