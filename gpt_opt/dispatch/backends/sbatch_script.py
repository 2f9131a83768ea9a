"""The text that sbatch gets: a pure function of what is to be done."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from gpt_opt.dispatch.backends.plain_names import plain
from gpt_opt.dispatch.backends.resources import mem_mb, site_options
from gpt_opt.records.program import Program
from gpt_opt.records.sweep_dir import Sweep
from gpt_opt.sweep.model import Resources

_WARN_S = 120


def warning_s(resources: Resources) -> int:
    """Returns how many seconds before the time limit Slurm shall warn: two minutes, or a quarter of a short limit."""
    return _WARN_S if resources.time_min is None else min(_WARN_S, resources.time_min * 15)


def names(sweep: Sweep) -> tuple[str, str]:
    """Returns what jobs of a sweep, or of a part of it, are called, and the comment by which they are found."""
    part = "" if sweep.shape is None else f".{sweep.shape}"
    comment = "" if sweep.shape is None else f":shape-{sweep.shape}"
    return f"{sweep.root.parent.name}-{sweep.root.name}{part}", f"{plain(sweep).root}{comment}"


def sbatch_text(
    sweep: Sweep, resources: Resources, slots: int, environment: Sequence[str], snapshot: bool = False
) -> str:
    """Returns the batch script of the disbatch backend.

    Args:
        sweep: The sweep directory; a part of it where the sweep has several shapes.
        resources: What one run needs; `gpus_per_run` None asks for one GPU.
        slots: Runs at a time.
        environment: Lines that put `gptopt` on the PATH, as `environment_lines` gives them.
        snapshot: Whether the job imports from the sweep's snapshot.
    """
    site = [f"--{name}={value}" for name, value in site_options(resources).items()]
    options = [*_options(sweep, resources, slots), *site, *resources.sbatch]
    part = "" if sweep.shape is None else f" --shape {sweep.shape}"
    return "\n".join(
        [
            "#!/bin/bash",
            *option_lines(options),
            *environment,
            *([import_line(sweep)] if snapshot else []),
            "# exec: the warning before the time limit goes to this process.",
            f"exec gptopt drive {plain(sweep).root}{part}",
            "",
        ]
    )


def environment_lines(root: str, programs: str, program: Program) -> list[str]:
    """Returns the lines of a batch script after which `gptopt` and its Python are on the PATH.

    Args:
        root: The repository, absolute.
        programs: Folder of the submitter's `gptopt`, which serves where the environment of jobs has none.
        program: How the runs are started.
    """
    if program.folder:  # an application, which says in its gptopt.toml what it needs
        return [*program.environment, f"command -v gptopt > /dev/null || PATH={shlex.quote(programs)}:$PATH"]
    source = f". {shlex.quote(f'{root}/slurm_scripts/environment.sh')}"
    return [f"GPTOPT_ROOT={shlex.quote(root)}", source, f"PATH=$PATH:{shlex.quote(programs)}"]


def import_line(sweep: Sweep) -> str:
    """Returns the line of a batch script after which Python imports from the snapshot of a sweep."""
    return f"export PYTHONPATH={shlex.quote(str(plain(sweep).code))}${{PYTHONPATH:+:$PYTHONPATH}}"


def _options(sweep: Sweep, resources: Resources, slots: int) -> list[str]:
    cpus, (name, comment) = resources.cpus_per_run or 1, names(sweep)
    options = [
        f"--job-name={name}",
        f"--comment={comment}",
        f"--output={plain(sweep).logs}/driver-%j.out",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR2@{warning_s(resources)}",
        f"--ntasks={math.ceil(slots / (resources.runs_per_gpu or 1))}",
        f"--cpus-per-task={cpus * (resources.runs_per_gpu or 1)}",
    ]
    if (memory := mem_mb(resources)) is not None:
        options.append(f"--mem-per-cpu={math.ceil(memory / cpus)}M")
    if gpus := resources.gpus_per_run if resources.gpus_per_run is not None else 1:
        options.append(f"--gpus-per-task={gpus}")
    return options


def option_lines(options: Sequence[str]) -> list[str]:
    """Returns sbatch options as lines of a batch script."""
    return [f"#SBATCH {_option(option)}" for option in options]


def _option(option: str) -> str:
    """Returns an option as a `#SBATCH` line takes it: sbatch splits at blanks outside of double quotes."""
    name, equals, value = option.partition("=")
    return f'{name}="{value}"' if equals and any(char.isspace() for char in value) and '"' not in value else option
