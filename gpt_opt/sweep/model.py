"""What a sweep is, as data: the reader (grid.py) makes it, points.py walks it, the planner and the backends read it.

Every field of a settings object (Resources, Metric) declares its kind and its meaning here and nowhere else: the
reader checks by it and the JSON Schema is written from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpt_opt.sweep.distributions import is_whole
from gpt_opt.sweep.json_file import Json

Items = tuple[tuple[str, Json], ...]
"""Parameters and their values, in order."""


@dataclass(frozen=True)
class Kind:
    """What a field of the file may hold.

    Attributes:
        expects: In words, to follow "must be".
        schema: The same as JSON Schema.
        accepts: The same as a function.
    """

    expects: str
    schema: dict[str, Any]
    accepts: Callable[[Json], bool]


def _whole(at_least: int) -> Kind:
    schema = {"type": "integer", "minimum": at_least}
    return Kind(f"an integer, at least {at_least}", schema, lambda v: is_whole(v) and v >= at_least)  # type: ignore[operator]


def _one_of(*options: str) -> Kind:
    return Kind(" or ".join(f'"{o}"' for o in options), {"enum": list(options)}, lambda v: v in options)


def is_line(value: Json) -> bool:
    """Returns whether a value is a string of one line, with no blanks around it."""
    return isinstance(value, str) and value.isprintable() and value.strip() == value != ""


_LINE = Kind(
    "a string on one line, not empty and without blanks at its ends",
    {"type": "string", "minLength": 1},
    is_line,
)
_POSITIVE = Kind(
    "a number above 0",
    {"type": "number", "exclusiveMinimum": 0},
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v > 0,
)
_OPTIONS = Kind(
    'a list of sbatch options, each a string that starts with "-", as ["--reservation=lab"]',
    {"type": "array", "items": {"type": "string", "pattern": "^-"}},
    lambda v: isinstance(v, list) and all(is_line(line) and str(line).startswith("-") for line in v),
)


def _about(kind: Kind, doc: str) -> dict[str, Any]:
    return {"kind": kind, "doc": doc}


@dataclass(frozen=True)
class Resources:
    """What one run needs from the cluster; None where the file does not say."""

    gpus_per_run: int | None = field(default=None, metadata=_about(_whole(0), "GPUs of one run; 0 for none"))
    nodes_per_run: int | None = field(default=None, metadata=_about(_whole(1), "nodes that one run spans"))
    cpus_per_run: int | None = field(default=None, metadata=_about(_whole(1), "CPU cores of one run"))
    mem_gb: float | None = field(default=None, metadata=_about(_POSITIVE, "memory of one run, in GB"))
    time_min: int | None = field(default=None, metadata=_about(_whole(1), "time limit of the allocation, in minutes"))
    partition: str | None = field(default=None, metadata=_about(_LINE, "Slurm partition"))
    qos: str | None = field(default=None, metadata=_about(_LINE, "Slurm quality of service"))
    account: str | None = field(default=None, metadata=_about(_LINE, "Slurm account that pays"))
    constraint: str | None = field(default=None, metadata=_about(_LINE, "Slurm node features, as a100|h100"))
    exclude: str | None = field(default=None, metadata=_about(_LINE, "Slurm nodes to leave out, as node[01-03]"))
    runs_per_gpu: int | None = field(default=None, metadata=_about(_whole(1), "runs that share one GPU"))
    sbatch: tuple[str, ...] = field(default=(), metadata=_about(_OPTIONS, "further sbatch options, one a string"))


SITE_FIELDS = ("partition", "qos", "account", "constraint", "exclude")
"""Fields of `Resources` that are options of sbatch by the same name."""


@dataclass(frozen=True)
class Metric:
    """What makes one run better than another."""

    name: str = field(metadata=_about(_LINE, "a metric of summary.json, as eval/loss"))
    goal: str = field(metadata=_about(_one_of("minimize", "maximize"), "which way is better"))


@dataclass(frozen=True)
class Axis:
    """Values that advance together: one key of `grid`, all of `zip`, or all of `random`.

    Attributes:
        keys: The override keys, as written.
        rows: One tuple a step, a value for each key.
    """

    keys: tuple[str, ...]
    rows: tuple[tuple[Json, ...], ...]


@dataclass(frozen=True)
class Exclude:
    """Drops the points that have, for every key, one of its values."""

    conditions: tuple[tuple[str, tuple[Json, ...]], ...]


@dataclass(frozen=True)
class Space:
    """A set of points: base x axes x union, less what `exclude` matches.

    Attributes:
        base: Parameters of every point.
        axes: In the order of the product, the slowest first.
        union: Alternatives, each a space of its own; they run fastest, one after the other. Empty for none.
        exclude: Partial matches.
    """

    base: Items = ()
    axes: tuple[Axis, ...] = ()
    union: tuple[Space, ...] = ()
    exclude: tuple[Exclude, ...] = ()


@dataclass(frozen=True)
class Best:
    """Which run of a stage the next stage starts from.

    Attributes:
        metric: A metric of summary.json.
        goal: `minimize` or `maximize`; "" for the direction that is known of the metric.
        per: Keys of the config: the best run is chosen among those that are equal in all of them; empty for one of all.
    """

    metric: str
    goal: str = ""
    per: tuple[str, ...] = ()


START_KEYS = {"model.archive", "training.finetuning.resume_from_checkpoint"}
"""Keys of the config by which a run starts from another one; the section `from` of a stage gives them."""


@dataclass(frozen=True)
class Start:
    """What the runs of a stage start from: the runs of a stage, or work done earlier.

    Attributes:
        stage: Name of an earlier stage; "" where `given` says it.
        given: Run ids and paths of runs, checkpoints or weights; every point of the stage starts from each of them.
        steps: Checkpoints to start from, by their optimizer steps; empty for the result of the run.
        best: How to choose among the runs of the stage; None starts from every one of them.
        resume: Whether the training goes on, with optimizer state, schedule and place in the data, instead of
            starting anew from the weights.
    """

    stage: str = ""
    given: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    best: Best | None = None
    resume: bool = False


@dataclass(frozen=True)
class Stage:
    """One link of a chain of trainings.

    Attributes:
        name: Unique in the sweep.
        space: Its own parameters; its points are the product of these with what it starts from.
        resources: What one of its runs needs.
        start: What its runs start from; None for a stage that starts from nothing.
    """

    name: str
    space: Space
    resources: Resources = field(default_factory=Resources)
    start: Start | None = None


@dataclass(frozen=True)
class Grid:
    """One sweep file.

    Attributes:
        name: Of the sweep, and of its directory under sweeps/.
        stages: What it trains, in order; a file without stages has one, without a name.
        metric: What to compare runs by; None if the file does not say.
        source: The file, as the caller named it.
    """

    name: str
    stages: tuple[Stage, ...]
    metric: Metric | None = None
    source: str = ""

    @property
    def is_staged(self) -> bool:
        """Whether the file has `stages`."""
        return bool(self.stages[0].name)


def settings(cls: type[Resources] | type[Metric]) -> dict[str, tuple[Kind, str, bool]]:
    """Returns the fields of a settings object: name -> (kind, meaning, whether it must be given)."""
    return {
        f.name: (f.metadata["kind"], f.metadata["doc"], f.default is dataclasses.MISSING)
        for f in dataclasses.fields(cls)
    }
