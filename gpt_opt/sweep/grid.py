r"""A sweep file (params/*.json) -> a Grid.

Short form: parameters only. `{"loss.beta": [0.05, 0.1], "seed": [0, 1]}` means `{"grid": {the same}}`.
Long form: as soon as one of the names below (but `$schema`) stands at the top, all top-level keys must be among them.

| section     | holds                                                   | its part in the points                   |
|-------------|---------------------------------------------------------|------------------------------------------|
| `base`      | key -> value                                            | every point has it                       |
| `grid`      | key -> alternatives                                     | one axis a key, in the order of the file |
| `zip`       | key -> alternatives, all of one length                  | one axis; the keys advance together      |
| `random`    | `samples`, `seed` (0), `params`: key -> distribution    | one axis; one step a sample              |
| `union`     | a list of sub-sweeps, in the short or long form         | the points of the first, of the next ... |
| `exclude`   | a list of objects key -> alternatives                   | drops points that match all keys of one  |
| `name`      | a string for the directory; default: the file name      |                                          |
| `resources` | what a run needs (model.Resources)                      |                                          |
| `metric`    | `{"name": ..., "goal": "minimize" or "maximize"}`       |                                          |
| `stages`    | a list of trainings that start from each other          | see stages.py                            |
| `$schema`   | where the JSON Schema lies, for editors                 |                                          |

A sub-sweep has no sections but `base` to `exclude`. Beside `stages` stand `base` (parameters of every stage), `name`,
`resources` and `metric` alone.

**Points.** The axes of one space combine by product, in the order grid, zip, random, union, whatever the order of the
sections in the file; the last runs fastest. A parameter may be given once in a space, its union included (`a`, `+a`,
`++a` and `~a` are one parameter); two members of one union may share parameters.

**Alternatives** are a list, one plain value (not in `zip`), or a generator: an object directly in place of the list,
`{"range": [start, stop, step]}` (stop left out), `{"linspace": [first, last, count]}` or `{"logspace": [first, last,
count]}` (both ends included; the values, not exponents). Inside the list everything is data: a list-valued parameter
is a list in the list, `[[0.9, 0.95], [0.9, 0.99]]`, an object is one alternative, null is a value. In `base` the value
is data directly: `{"betas": [0.9, 0.95]}`.

**Distributions**, and how a draw depends on seed, key and index alone: distributions.py. The same key in two members of
a union draws the same values, unless their seeds differ.

**Exclude** looks at the parameters of its own space, its union included. A point that lacks a key of an entry (it comes
from another member) does not match. 1 matches 1.0; true does not match 1. An entry that matches no point, and a space
that keeps no point, are errors. Excluded points take no index.

**Keys** are Hydra's: `loss.beta`, `optimizer` (a config group), `group@package`, `+new.key`, `++any.key`, `~old.key`
(with null: deleted; with a value: deleted if that is its value). Strings are data: `${...}` and `$(...)` stay as they
are. An object given to a key that holds one is merged into it, as Hydra does.
"""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Any

from gpt_opt.sweep.diagnostics import Report
from gpt_opt.sweep.json_file import Document, Json, parse_json, read_json, shown
from gpt_opt.sweep.model import Grid, Metric, Stage
from gpt_opt.sweep.space import SPACE_SECTIONS, TOP_SECTIONS, SpaceReader, check_sections, is_short
from gpt_opt.sweep.stages import NAME_PATTERN, read_resources, read_stages


def load_grid(path: str | FilePath) -> Grid:
    """Reads a sweep file to a grid, which points.py enumerates.

    Raises:
        SweepError: The file cannot be read or has mistakes; all of them are in it, each with file and line.
    """
    return _read(read_json(path), FilePath(path).stem)


def parse_grid(text: str, source: str = "<text>", name: str = "sweep") -> Grid:
    """Reads a sweep from JSON text; `source` stands for the file name in messages, `name` for a name it does not give.

    Raises:
        SweepError: As for `load_grid`.
    """
    return _read(parse_json(text, source), name)


def _read(document: Document, default_name: str) -> Grid:
    report = Report(document)
    members = report.members((), document.value, "a sweep")
    if document.value == {}:
        report.add((), "a sweep must have a parameter or a section", 'write {"base": {}} for one run of the defaults')
    if not members:
        report.raise_if_any()
    if not is_short(members):
        check_sections(report, (), members, [*SPACE_SECTIONS, *TOP_SECTIONS], "a top-level key")
    top = {} if is_short(members) else members
    resources = read_resources(report, (), top)
    if "stages" in top:
        stages = read_stages(report, top, resources)
    else:
        stages = (Stage("", SpaceReader(report, (), members).read(), resources),)
    name, metric = _name(report, top, default_name), _metric(report, top)
    report.raise_if_any()
    return Grid(name, stages, metric, document.source)


def _name(report: Report, members: dict[str, Json], default: str) -> str:
    name = members.get("name", default)
    if not isinstance(name, str) or re.fullmatch(NAME_PATTERN, name) is None:
        path = ("name",) if "name" in members else ()
        message = f"a sweep's name must be letters, digits, dots, - and _, but got {shown(name)}"
        report.add(path, message, 'it becomes a directory; give "name" if the file name is no such name')
    return str(name)


def _metric(report: Report, members: dict[str, Json]) -> Metric | None:
    given: dict[str, Any] = {}
    if "metric" in members:
        given = {**report.settings(("metric",), members["metric"], Metric)}
    return Metric(**given) if len(given) == 2 else None
