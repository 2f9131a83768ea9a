"""What a backend cannot do with the resources that runs ask for: refused, or told, before anything starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.backends.base import BACKENDS, backend_named
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.sweep.model import SITE_FIELDS, Resources

log = logging.getLogger(__name__)

SLURM_ONLY = ("time_min", *SITE_FIELDS, "sbatch")
"""Resources that mean nothing on a machine by itself; `mem_gb` says there whether a retry would have more."""

_UNSAID: Mapping[str, Any] = {item.name: item.default for item in fields(Resources) if item.name in SLURM_ONLY}


def usable(resources: Resources, backend: str) -> Resources:
    """Returns the part of the resources that a backend can use: runs that differ in others alone are of one shape."""
    return resources if backend_named(backend).on_slurm else replace(resources, **_UNSAID)


def check_backend(shapes: Sequence[Resources], backend: str, slots: int | None, flags: Mapping[str, Any]) -> None:
    """Refuses what a backend cannot do.

    What a sweep file or the config says for a cluster is not used on this machine, which is told; a flag is refused.

    Args:
        shapes: The different needs of the runs.
        backend: Its name.
        slots: Runs at a time; None for the backend's own choice.
        flags: Resources given as flags, None where not given.

    Raises:
        ConfigError: With all of it, equal problems of several shapes once.
    """
    problems = [problem for shape in shapes for problem in _problems(shape, backend)]
    not_used = () if backend_named(backend).on_slurm else SLURM_ONLY
    for name in filter(flags.get, not_used):
        message = f"is {_value(flags[name])}, which is for Slurm, but the backend is {backend}: this machine by itself"
        problems.append(Problem(f"--{name.replace('_', '-')}", message, "leave it out"))
    if slots is not None and slots < 1:
        problems.append(Problem("--slots", f"must be at least 1, but is {slots}"))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), ", nothing was submitted")
    values = ((name, getattr(shape, name)) for shape in shapes for name in not_used)
    unused = dict.fromkeys(f"{name}={_value(value)}" for name, value in values if value)
    if unused:
        log.warning("not used on this machine, being for Slurm: %s", ", ".join(unused))


def _value(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple | list) else str(value)


def _problems(resources: Resources, backend: str) -> Iterator[Problem]:
    if (resources.nodes_per_run or 1) > 1 and not backend_named(backend).spans_nodes:
        message = f"is {resources.nodes_per_run}, but the backend {backend} gives a run slots on one node only"
        names = (f"--backend {name}" for name, other in BACKENDS.items() if other.spans_nodes)
        yield Problem("nodes_per_run", message, f"add {' or '.join(names)}")
    if (resources.runs_per_gpu or 1) > 1 and (resources.gpus_per_run or 1) != 1:
        message = f"is {resources.runs_per_gpu}, so gpus_per_run must be 1, but is {resources.gpus_per_run}"
        yield Problem("runs_per_gpu", message)
    if (default := backend_named(backend).default_time_min) is not None and resources.time_min is None:
        message = f"must be given for the backend {backend}, whose own default would be {default} minutes"
        fix = "add --time-min MINUTES, or resources.time_min to the sweep file"
        yield Problem("time_min", message, fix)


def check_plan(shapes: Sequence[Resources], backend: str | None) -> None:
    """Refuses, before anything is submitted, what the backend of a plan cannot do.

    A sweep that is planned where there is no Slurm may be meant for a cluster. So what this machine alone cannot do is
    only told there, unless it is what the plan is for.

    Args:
        shapes: The different needs of the runs.
        backend: Its name; None for that of `gptopt submit` without `--backend`.

    Raises:
        ConfigError: With all of it, equal problems of several shapes once.
    """
    if backend is not None or slurm.is_installed():
        check_backend(shapes, backend or default_backend(), None, {})
        return
    of_every_backend = {
        problem: all(problem in _problems(shape, name) for name in BACKENDS)
        for shape in shapes
        for problem in _problems(shape, default_backend())
    }
    if problems := [problem for problem, is_of_every in of_every_backend.items() if is_of_every]:
        raise ConfigError(problems, ", nothing was submitted")
    for problem in of_every_backend:
        advice = f"{problem.fix} to plan for a cluster" if problem.fix else "--backend NAME plans for a cluster"
        log.warning("there is no Slurm here: %s %s; %s", problem.where, problem.message, advice)


def default_backend() -> str:
    """Returns the name of the backend that this machine has: disbatch, or local where there is no Slurm."""
    return "disbatch" if slurm.is_installed() else "local"


def usable_backend(backend: str | None, file: str) -> str:
    """Returns the backend that is asked for, or else the one that this machine has.

    Args:
        backend: Name of a backend; None for disbatch, or local where there is no Slurm.
        file: The sweep file, for the advice.

    Raises:
        ConfigError: If there is no such backend, or it needs a Slurm, and there is none that works.
    """
    backend = backend or default_backend()
    if not backend_named(backend).on_slurm:
        return backend
    if not slurm.is_installed():
        message = f"is {backend}, which needs Slurm, but sbatch is not on the path"
        raise ConfigError([Problem("--backend", message, "use --backend local, or see gptopt doctor")])
    if (reason := slurm.problem()) is not None:
        message = f"is {backend}, but Slurm, which is installed, does not work here: {reason}"
        fix = f"mend that, or run the sweep on this machine: gptopt submit {file} --backend local"
        raise ConfigError([Problem("--backend", message, fix)], ", nothing was submitted")
    return backend
