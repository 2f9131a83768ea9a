"""Reads the part of a sweep file that says which points there are: base, grid, zip, random, union and exclude."""

from __future__ import annotations

from collections.abc import Iterable

from gpt_opt.sweep.diagnostics import Report
from gpt_opt.sweep.distributions import DISTRIBUTIONS, GENERATORS, MAX_VALUES, BadValues, Draw, draw_number, is_whole
from gpt_opt.sweep.json_file import Json, Path, shown
from gpt_opt.sweep.model import Axis, Exclude, Items, Space
from gpt_opt.sweep.overrides import describe, target
from gpt_opt.sweep.points import frozen, survey, values_by_key

SPACE_SECTIONS = {
    "base": "parameters of every point: key -> the value itself, a list or object included",
    "grid": "key -> alternatives; the product of all",
    "zip": "key -> alternatives, all of one length; they advance together",
    "random": "samples drawn from distributions; the same ones on every machine",
    "union": "a list of sub-sweeps; each gives its points, one sub-sweep after the other",
    "exclude": "partial matches; a point that matches one of them is left out",
}
"""The sections of a space and what they hold."""

TOP_SECTIONS = {
    "$schema": "where the JSON Schema of this format lies; for editors, has no effect",
    "name": "name of the sweep and of its directory; the file name without .json if not given",
    "resources": "what one run needs from the cluster",
    "metric": "what to compare runs by",
    "stages": "a list of trainings, each of which starts from the checkpoints of the one before",
}
"""The sections that only the top of the file may have."""

STAGE_SECTIONS = {
    "name": "name of the stage, unique in the file",
    "from": "what its runs start from; the stage before if not given",
    "resources": "what one run of it needs, over what the top of the file says",
}
"""The sections that only a stage may have, besides those of a space."""

MAX_SEED = 2**63 - 1
"""Largest seed of `random`."""

RANDOM_FIELDS = {
    "samples": f"number of points drawn, 1 to {MAX_VALUES}",
    "seed": "an integer, 0 if not given; another seed gives other points",
    "params": "key -> one distribution",
}
"""The fields of `random`."""

_Keys = dict[str, Path]


def is_short(members: dict[str, Json]) -> bool:
    """Returns whether an object is in the short form: only parameters, and `$schema` at most."""
    return not any(name in {*SPACE_SECTIONS, *TOP_SECTIONS} - {"$schema"} for name in members)


def check_sections(
    report: Report, path: Path, members: dict[str, Json], valid: Iterable[str], what: str, where: str = "a union"
) -> None:
    """Notes every member of a space in the long form that is none of the `valid` sections."""
    for name in members:
        if name in TOP_SECTIONS and name not in valid:
            report.add((*path, name), f"{name} must stand at the top of the file, not in {where}", "move it up")
        elif name not in valid:
            report.unknown((*path, name), what, valid, 'parameters belong into "grid" or "base"')


class SpaceReader:
    """Reads one space; the members of its union are read by readers of their own."""

    def __init__(self, report: Report, path: Path, members: dict[str, Json]) -> None:
        """Takes the members of the object at `path`, in the short or the long form."""
        self.keys: _Keys = {}
        self._report = report
        self._path = path
        if is_short(members):
            grid: Json = {key: value for key, value in members.items() if key != "$schema"}
            self._sections: dict[str, tuple[Path, Json]] = {"grid": (path, grid)}
        else:
            self._sections = {name: ((*path, name), value) for name, value in members.items()}

    def read(self) -> Space:
        """Reads the space and note its problems; the result is only of use when there are none."""
        before = len(self._report)
        base = self._base()
        axes = (*self._grid(), *self._zip(), *self._random())
        space = Space(base, axes, self._union(), self._exclude())
        if len(self._report) == before:
            self._check_excludes(space)
        return space

    def _parameters(self, section: str) -> tuple[Path, dict[str, Json]]:
        """Returns the path of a section and its members with good keys; note what is wrong with the others."""
        path, value = self._sections.get(section, (self._path, {}))
        members = self._report.members(path, value, section)
        if section in self._sections and value == {} and section != "base":
            self._report.add(path, f"{section} must have at least one parameter, but is empty", "leave it out")
        good = {key: item for key, item in members.items() if self._report.key((*path, key), key)}
        for key in good:
            self._claim((*path, key), key)
        return path, good

    def _claim(self, path: Path, key: str) -> None:
        first = self.keys.setdefault(target(key), path)
        if first != path:
            line = self._report.line(first)
            self._report.add(
                path,
                f"a parameter must be given once in a space, but {shown(target(key))} also stands on line {line}",
                "keep one; for values that depend on another parameter use the members of a union",
            )

    def _base(self) -> Items:
        path, members = self._parameters("base")
        for key, value in members.items():
            self._report.value((*path, key), key, value)
        return tuple(members.items())

    def _grid(self) -> list[Axis]:
        path, members = self._parameters("grid")
        return [
            Axis((key,), tuple((v,) for v in self._alternatives((*path, key), key, value, single=True)))
            for key, value in members.items()
        ]

    def _zip(self) -> list[Axis]:
        path, members = self._parameters("zip")
        lists = {key: self._alternatives((*path, key), key, value) for key, value in members.items()}
        sizes = {key: len(values) for key, values in lists.items() if values}
        if len(set(sizes.values())) > 1:
            got = ", ".join(f"{key} {size}" for key, size in sizes.items())
            self._report.add(path, f"the lists of zip must have one length, but got {got}", "make them equal")
            return []
        return [Axis(tuple(lists), tuple(zip(*lists.values(), strict=False)))] if lists else []

    def _alternatives(self, path: Path, key: str, value: Json, *, single: bool = False) -> tuple[Json, ...]:
        """Returns the alternatives that a list, a generator or (if `single`) one plain value stands for."""
        if isinstance(value, dict):
            return self._generated(path, key, value)
        if isinstance(value, list):
            if not value:
                self._report.add(path, "a list of alternatives must not be empty", "give a value, or leave the key out")
            for index, item in enumerate(value):
                self._report.value((*path, index), key, item)
            return tuple(value)
        if not single:
            self._report.add(path, f"zip needs a list here, but got {shown(value)}", "put a fixed value into base")
            return ()
        self._report.value(path, key, value)
        return (value,)

    def _generated(self, path: Path, key: str, value: dict[str, Json]) -> tuple[Json, ...]:
        name = next(iter(value), "")
        if len(value) != 1 or name not in GENERATORS:
            names = ", ".join(GENERATORS)
            fix = f"for an object as a value write it in a list: [{shown(value, 30)}]"
            if key in DISTRIBUTIONS or name in DISTRIBUTIONS:
                fix = 'distributions belong to "random": {"samples": ..., "params": {...}}'
            elif len(path) == 1:
                fix += "; for a section, check the spelling"
            self._report.add(path, f"an object here must be one generator ({names}), but got {shown(value)}", fix)
            return ()
        generator = GENERATORS[name]
        try:
            return generator.make(value[name])
        except BadValues as error:
            self._report.add((*path, name), f"{name}: {error.message}", error.fix or f"{name} takes {generator.form}")
            return ()

    def _random(self) -> list[Axis]:
        if "random" not in self._sections:
            return []
        path, value = self._sections["random"]
        members = self._report.members(path, value, "random")
        if not isinstance(value, dict):
            return []
        before = len(self._report)
        for name in members:
            if name not in RANDOM_FIELDS:
                self._report.unknown((*path, name), "a key of random", RANDOM_FIELDS)
        samples = self._whole(path, members, "samples", None, 1, MAX_VALUES)
        seed = self._whole(path, members, "seed", 0, 0, MAX_SEED)
        draws = self._draws(path, members)
        if len(self._report) > before:
            return []
        rows = (tuple(draw(draw_number(seed, key, i)) for key, draw in draws.items()) for i in range(samples))
        return [Axis(tuple(draws), tuple(rows))]

    def _whole(self, path: Path, members: dict[str, Json], name: str, default: int | None, low: int, high: int) -> int:
        value = members.get(name, default)
        if isinstance(value, int) and is_whole(value) and low <= value <= high:
            return value
        where = (*path, name) if name in members else path
        got = shown(value) if name in members else "nothing"
        fix = f"it is the {RANDOM_FIELDS[name]}"
        self._report.add(where, f"{name} must be an integer from {low} to {high}, but got {got}", fix)
        return low

    def _draws(self, random_path: Path, fields: dict[str, Json]) -> dict[str, Draw]:
        if "params" not in fields:
            self._report.add(random_path, 'random must have "params"', 'add "params": {key: {"uniform": [0, 1]}, ...}')
            return {}
        self._sections["params"] = ((*random_path, "params"), fields["params"])
        path, members = self._parameters("params")
        draws: dict[str, Draw] = {}
        for key, value in members.items():
            name = next(iter(value), "") if isinstance(value, dict) else ""
            if not isinstance(value, dict) or len(value) != 1 or name not in DISTRIBUTIONS:
                forms = ", ".join(f'{{"{name}": {entry.form}}}' for name, entry in DISTRIBUTIONS.items())
                message = f"{key} must be one distribution, but got {shown(value)}"
                self._report.add((*path, key), message, f"valid are {forms}")
                continue
            entry = DISTRIBUTIONS[name]
            try:
                draws[key] = entry.make(value[name])
            except BadValues as error:
                fix = error.fix or f"{name} takes {entry.form}: {entry.doc}"
                self._report.add((*path, key, name), f"{key}: {name}: {error.message}", fix)
            else:
                self._choices((*path, key, name), key, value[name])
        return draws

    def _choices(self, path: Path, key: str, arguments: Json) -> None:
        for index, item in enumerate(arguments if isinstance(arguments, list) else ()):
            self._report.value((*path, index), key, item)

    def _union(self) -> tuple[Space, ...]:
        if "union" not in self._sections:
            return ()
        path, value = self._sections["union"]
        if not isinstance(value, list) or not value:
            fix = "write [{...}, {...}], or leave it out"
            self._report.add(path, f"union must be a list of at least one sub-sweep, but got {shown(value)}", fix)
            return ()
        below: _Keys = {}
        spaces = [self._member((*path, index), member, below) for index, member in enumerate(value)]
        self.keys.update(below)
        return tuple(spaces)

    def _member(self, path: Path, value: Json, below: _Keys) -> Space:
        members = self._report.members(path, value, "a member of union")
        if value == {}:
            self._report.add(path, "a member of union must not be empty", 'write {"base": {}} for the defaults')
        if not members:
            return Space()
        if not is_short(members):
            check_sections(self._report, path, members, SPACE_SECTIONS, "a section")
        reader = SpaceReader(self._report, path, members)
        space = reader.read()
        for name, where in reader.keys.items():
            if name in self.keys:
                line = self._report.line(self.keys[name])
                message = f"a parameter must be given once, but line {line} gives {shown(name)} to every member"
                self._report.add(where, message, "give it in the members only")
        below.update(reader.keys)
        return space

    def _exclude(self) -> tuple[Exclude, ...]:
        path, value = self._sections.get("exclude", ((), []))
        if not isinstance(value, list):
            self._report.add(path, f"exclude must be a list of objects, but got {shown(value)}", "write [{...}]")
            return ()
        return tuple(self._entry((*path, index), entry) for index, entry in enumerate(value))

    def _entry(self, path: Path, value: Json) -> Exclude:
        members = self._report.members(path, value, "an entry of exclude")
        if value == {}:
            message = "an entry of exclude must name a parameter, but {} matches every point"
            self._report.add(path, message, "remove it")
        seen: _Keys = {}
        for key in members:
            if target(key) not in self.keys:
                fix = "it must be given in this space"
                self._report.unknown((*path, key), "a parameter in exclude", self.keys, fix)
            elif seen.setdefault(target(key), (*path, key)) != (*path, key):
                message = f"a parameter must be given once in an entry, but {shown(target(key))} is there twice"
                self._report.add((*path, key), message, "put its values into one list")
        conditions = ((key, self._alternatives((*path, key), key, item, single=True)) for key, item in members.items())
        return Exclude(tuple(conditions))

    def _check_excludes(self, space: Space) -> None:
        if not space.exclude:
            return
        kept, unused = survey(space)
        path, _ = self._sections["exclude"]
        for index in unused:
            entry = describe((key, list(v) if len(v) > 1 else v[0]) for key, v in space.exclude[index].conditions)
            fix = self._near_miss(space, space.exclude[index]) or "no point has these values together: remove the entry"
            self._report.add((*path, index), f"an entry of exclude must match a point, but none has {entry}", fix)
        if not kept:
            self._report.add(path, "exclude must leave a point, but it drops them all", "make its entries narrower")

    def _near_miss(self, space: Space, entry: Exclude) -> str:
        given = {target(key): list(values.values()) for key, values in values_by_key(space).items()}
        for key, wanted in entry.conditions:
            values = given[target(key)]
            if not set(map(frozen, wanted)) & set(map(frozen, values)):
                return f"{target(key)} is one of {shown(values)} here"
        return ""
