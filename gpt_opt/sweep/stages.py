r"""The section `stages` of a sweep file: trainings of which each starts from the checkpoints of an earlier one.

A stage is an object with a `name`, the sections of a space (`base`, `grid`, `zip`, `random`, `union`, `exclude`),
`resources` over those of the file, and `from`. Its points are the product of its own with what it starts from, the
latter running slowest. What the file says in `base` holds for every stage that does not give the key itself.

| `from`                                                      | its runs start from                                    |
|-------------------------------------------------------------|--------------------------------------------------------|
| not given                                                   | every run of the stage before; the first from nothing  |
| `null`                                                      | nothing                                                |
| `"sft"`                                                     | every run of the stage `sft`                           |
| a run id, a path (of a run, a checkpoint, weights), a list  | each of these                                          |
| `{"stage": "pretrain", "step": [500, 1000]}`                | these checkpoints of every run of the stage            |
| `{"stage": "sft", "best": "eval/loss", "goal": "minimize"}` | the best run of the stage                              |
| `... "per": ["seed"]}`                                      | the best run for each value of a key                   |
| `... "resume": true}`                                       | as above, with optimizer state and place in the data   |

`stage` is the stage before where an object does not say; `goal` is that of the metric where it is known.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from gpt_opt.sweep.diagnostics import Report
from gpt_opt.sweep.distributions import is_whole
from gpt_opt.sweep.json_file import Json, Path, shown
from gpt_opt.sweep.model import START_KEYS, Best, Items, Resources, Stage, Start, is_line
from gpt_opt.sweep.overrides import target
from gpt_opt.sweep.space import SPACE_SECTIONS, STAGE_SECTIONS, SpaceReader, check_sections

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names of sweeps and stages: sweeps are directories, and a run is STAGE/INDEX."""

FROM_FIELDS = {
    "stage": "name of an earlier stage; the stage before if not given",
    "step": "optimizer steps of a checkpoint, or a list of such",
    "best": "a metric of summary.json, as eval/loss: only the best run is started from",
    "goal": "minimize or maximize, where the direction of the metric is not known",
    "per": "keys of the config, a list: the best run for each of their values",
    "resume": "true: the training goes on with optimizer state, schedule and place in the data",
}
"""The fields of `from` as an object."""

FROM_FORMS = 'null for nothing, a stage, a run id, a path, a list of these two, or {"stage": ..., "step": ..., ...}'
"""What `from` may be, in words."""

_BESIDE = ("$schema", "name", "base", "resources", "metric", "stages")
_RUN_ID = re.compile(r"^[0-9a-f]{12}$")
_PATH = re.compile(r"^[.~]?/|^\.\.|/")


def read_stages(report: Report, top: dict[str, Json], resources: Resources) -> tuple[Stage, ...]:
    """Reads the stages of a file, whose top asks for `resources`; of use only where `report` has no problems."""
    for name in (name for name in top if name in SPACE_SECTIONS and name not in _BESIDE):
        report.add((name,), f"{name} must stand in a stage where a file has stages", "move it into one of them")
    shared = {name: value for name, value in top.items() if name == "base"}
    base = SpaceReader(report, (), shared or {"base": {}}).read().base
    value = top["stages"]
    if not isinstance(value, list) or not value:
        fix = 'write [{"name": "sft", "base": {...}}, {"name": "dpo", "grid": {...}}]'
        report.add(("stages",), f"stages must be a list of at least one stage, but got {shown(value)}", fix)
        return ()
    stages: list[Stage] = []
    for index, item in enumerate(value):
        stages.append(_stage(report, ("stages", index), item, base, resources, stages))
    return tuple(stages)


def read_resources(report: Report, path: Path, members: dict[str, Json], above: Resources | None = None) -> Resources:
    """Reads the section `resources` of the object at `path`, over what is given `above` it."""
    given: dict[str, Any] = {}
    if "resources" in members:
        given = {**report.settings((*path, "resources"), members["resources"], Resources)}
        if "sbatch" in given:
            given["sbatch"] = tuple(given["sbatch"])
    return replace(above or Resources(), **given)


def _stage(report: Report, path: Path, value: Json, base: Items, resources: Resources, earlier: list[Stage]) -> Stage:
    members = report.members(path, value, "a stage")
    if isinstance(value, dict):
        check_sections(report, path, members, [*SPACE_SECTIONS, *STAGE_SECTIONS], "a key of a stage", "a stage")
    name = _name(report, path, members, earlier)
    own = {key: item for key, item in members.items() if key in SPACE_SECTIONS}
    reader = SpaceReader(report, path, own or {"base": {}})
    space = reader.read()
    given = {*reader.keys}
    space = replace(space, base=(*((key, item) for key, item in base if target(key) not in given), *space.base))
    start = _start(report, path, members, earlier)
    for key in START_KEYS & given if start is not None else ():
        fix = 'leave it out, or say it in "from"'
        report.add(reader.keys[key], f"{key} is what the stage starts from, which from says", fix)
    return Stage(name, space, read_resources(report, path, members, resources), start)


def _name(report: Report, path: Path, members: dict[str, Json], earlier: list[Stage]) -> str:
    name = members.get("name")
    if not isinstance(name, str) or re.fullmatch(NAME_PATTERN, name) is None or _RUN_ID.match(name):
        got = f"but got {shown(name)}" if "name" in members else "but has none"
        where = (*path, "name") if "name" in members else path
        message = f"a stage must have a name of letters, digits, dots, - and _ that is no run id, {got}"
        report.add(where, message, 'a run is STAGE/INDEX then: add "name": "sft"')
        return f"stage-{len(earlier)}"
    if name in [stage.name for stage in earlier]:
        report.add((*path, "name"), f"a stage's name must be unique, but {shown(name)} is there twice", "rename one")
    return name


def _start(report: Report, path: Path, members: dict[str, Json], earlier: list[Stage]) -> Start | None:
    if "from" not in members:
        return Start(earlier[-1].name) if earlier else None
    where, value = (*path, "from"), members["from"]
    if value is None:
        return None
    if isinstance(value, dict):
        return _start_of_stage(report, where, value, earlier)
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) and item.strip() for item in items):
        report.add(where, f"from must be {FROM_FORMS}, but got {shown(value)}")
        return None
    if value in [stage.name for stage in earlier]:
        return Start(str(value))
    for index, item in enumerate(items):
        if not (_RUN_ID.match(str(item)) or _PATH.search(str(item))):
            place = (*where, index) if isinstance(value, list) else where
            _unknown_stage(report, place, str(item), earlier, "for a folder write ./NAME")
    return Start(given=tuple(map(str, items)))


def _unknown_stage(report: Report, path: Path, name: str, earlier: list[Stage], more: str = "") -> None:
    names = ", ".join(stage.name for stage in earlier) or "none"
    fix = f"earlier stages: {names}" + (f"; {more}" if more else "")
    got = f"but got {shown(name)}" if name else "but none does"
    report.add(path, f"from must name a stage that stands before this one, {got}", fix)


def _start_of_stage(report: Report, path: Path, fields: dict[str, Json], earlier: list[Stage]) -> Start | None:
    for name in fields:
        if name not in FROM_FIELDS:
            report.unknown((*path, name), "a key of from", FROM_FIELDS)
    stage = fields.get("stage", earlier[-1].name if earlier else "")
    if stage not in [item.name for item in earlier]:
        _unknown_stage(report, (*path, "stage") if "stage" in fields else path, str(stage), earlier)
        return None
    step = fields.get("step", [])
    steps = step if isinstance(step, list) else [step]
    if "step" in fields and not (steps and all(is_whole(item) and int(str(item)) >= 1 for item in steps)):
        message = f"step must be a number of optimizer steps, at least 1, or a list of such, but got {shown(step)}"
        report.add((*path, "step"), message)
        steps = []
    resume = fields.get("resume", False)
    if not isinstance(resume, bool):
        report.add((*path, "resume"), f"resume must be true or false, but got {shown(resume)}")
    best = _best(report, path, fields)
    return Start(str(stage), steps=tuple(int(str(item)) for item in steps), best=best, resume=bool(resume))


def _best(report: Report, path: Path, fields: dict[str, Json]) -> Best | None:
    best, goal, per = fields.get("best"), fields.get("goal", ""), fields.get("per", [])
    if best is None:
        for name in ("goal", "per"):
            if name in fields:
                report.add((*path, name), f'{name} says how "best" chooses, but there is none', 'add "best": METRIC')
        return None
    if not is_line(best):
        message = f"best must be the name of a metric, without blanks at its ends, but got {shown(best)}"
        report.add((*path, "best"), message, 'write "best": "eval/loss", "goal": "minimize"')
    if goal not in ("", "minimize", "maximize"):
        report.add((*path, "goal"), f'goal must be "minimize" or "maximize", but got {shown(goal)}')
    if not isinstance(per, list) or not all(isinstance(key, str) and key for key in per):
        report.add((*path, "per"), f'per must be a list of config keys, as ["seed"], but got {shown(per)}')
        per = []
    return Best(str(best), str(goal), tuple(map(str, per)))
