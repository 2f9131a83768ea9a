"""The points of a stage: its own, each with every run that the stage starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt_opt.app.app import StartKeys
from gpt_opt.config.nested import value_at
from gpt_opt.errors import Problem
from gpt_opt.plan.metrics import MissingMetric
from gpt_opt.records.metrics import greater_is_better
from gpt_opt.records.run_reference import RunReference
from gpt_opt.sweep.model import Best, Grid, Metric, Stage, Start
from gpt_opt.sweep.overrides import target, to_override
from gpt_opt.sweep.points import values_by_key


@dataclass(frozen=True)
class Parent:
    """A run of an earlier stage, as it is planned.

    Attributes:
        index: Its index in the plan.
        number: Its position in its stage; runs of which one will be chosen share it.
        run_id: Its id.
        overrides: The override strings that give its config.
        config: Its resolved config.
    """

    index: int
    number: int
    run_id: str
    overrides: tuple[str, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """What points of a stage start from.

    Attributes:
        inherited: What their configs take over from it, before their own parameters.
        start: The override that names it, after all others; empty for nothing.
        parent: Index of the run; None where it is none of the plan.
        choice: Name of the choice among several runs that decides whether this one is started from; "" for none.
        number: Its position among what the stage starts from; runs of one choice share it.
    """

    inherited: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    parent: int | None = None
    choice: str = ""
    number: int = 0


def origins(stage: Stage, parents: Sequence[Parent], extra: Sequence[str], keys: StartKeys | None) -> list[Origin]:
    """Returns what the points of a stage start from, in order.

    A run takes over the model and the seed of the run that it starts from, unless its stage gives them; one that
    goes on with its training also what that started from.

    Args:
        stage: The stage.
        parents: The runs of the stage that it starts from, without duplicates.
        extra: Overrides that come after those of all points.
        keys: The keys by which a run starts from another one; None if it cannot.
    """
    start = stage.start
    if start is None or keys is None:
        return [Origin()]
    key = keys.resume if start.resume else keys.archive
    if start.given:
        return [Origin(start=(to_override(key, text),), number=number) for number, text in enumerate(start.given)]
    given = {target(name) for name in values_by_key(stage.space)} | {target(t.partition("=")[0]) for t in extra}
    numbers: dict[Any, int] = {}
    found = []
    for parent in parents:
        choice = _choice(stage.name, start.best, parent.config)
        kept = tuple(text for text in parent.overrides if _is_inherited(text, given, keys, start.resume))
        for step in start.steps or (None,):
            number = numbers.setdefault((choice or parent.number, step), len(numbers))
            archive = f"{key}={RunReference(parent.run_id, step)}"
            found.append(Origin(kept, (archive,), parent.index, choice, number))
    return found


def _is_inherited(override: str, given: set[str], keys: StartKeys, resume: bool) -> bool:
    key = target(override.partition("=")[0])
    above = next((name for name in keys.inherited if f"{key}.".startswith(f"{name}.")), None)
    return above is not None and (resume or key != keys.archive) and not {key, above} & given


def _choice(stage: str, best: Best | None, config: Mapping[str, Any]) -> str:
    if best is None:
        return ""
    return ", ".join([stage, *(f"{key}={value_at(config, key)}" for key in best.per)])


def start_problems(
    stage: Stage, parents: Sequence[Parent], keys: StartKeys | None, missing: MissingMetric | None
) -> Iterator[Problem]:
    """Checks what a stage says of how the runs that it starts from are chosen.

    Args:
        stage: The stage.
        parents: The runs that it starts from.
        keys: The keys by which a run starts from another one; None if it cannot.
        missing: What is wrong with the metric that chooses among them; None for nothing.
    """
    start, where = stage.start, f"stage {stage.name}: from"
    if start is None:
        return
    if keys is None:
        problem = "must not start from another stage, since no key of this application names a run to start from"
        yield Problem(where, problem, "name that key in gptopt.toml: [stages] start")
        return
    if not keys.resume and (start.resume or start.steps):
        problem = "must not have resume or step, which are for the checkpoints of gpt-opt's own training"
        yield Problem(where, problem, "leave them out: the newest checkpoint is started from")
    best = start.best
    if best is None:
        return
    if missing is not None and missing.certain:
        yield Problem(where, missing.message.replace("must be", "best must be", 1), missing.fix)
    elif not best.goal and greater_is_better(best.metric) is None:
        problem = f"must say which way {best.metric!r} is better, which is not known of it"
        meant = f"{missing.fix} if not, " if missing is not None and missing.fix.endswith("?") else ""
        yield Problem(where, problem, f'{meant}add "goal": "minimize" or "maximize"')
    for key in best.per:
        if any(value_at(parent.config, key) is None for parent in parents):
            yield Problem(where, f"per must name keys of the config, but there is no {key}", "as seed, or loss.beta")


def rule(best: Best) -> Metric:
    """Returns the metric by which the best run is chosen, with its goal."""
    goal = best.goal or ("maximize" if greater_is_better(best.metric) else "minimize")
    return Metric(best.metric, goal)


def described(start: Start | None) -> str:
    """Returns what a stage starts from, for people: `best of sft by eval/loss, minimized, for each seed`."""
    if start is None:
        return ""
    if start.given:
        return ", ".join(start.given)
    text = start.stage
    if start.best is not None:
        metric = rule(start.best)
        text = f"best of {text} by {metric.name}, {metric.goal}d"
        text += f", for each {' and '.join(start.best.per)}" if start.best.per else ""
    if start.steps:
        text += f" at step {', '.join(map(str, start.steps))}"
    return text + (", resumed" if start.resume else "")


def stage_of(grid: Grid, name: str) -> Stage:
    """Returns a stage by its name."""
    return next(stage for stage in grid.stages if stage.name == name)
