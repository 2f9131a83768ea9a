"""What a result was made with: code, packages, machine. Never the environment, which may hold secrets."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

from gpt_opt.records.code import Code, provenance_of_code
from gpt_opt.records.io import now, read_json_or_empty, to_json, unfenced, write_text
from gpt_opt.records.job_id import slurm_ids
from gpt_opt.records.run_dir import RunPaths, saved_progress

Inputs = Mapping[str, Mapping[str, str]]
"""Config key, or name of a module of the user's, to `path` and `sha256`; of a run that is started from also its
`run_id` and the `attempt` that made its result."""


DEVICES = "CUDA_VISIBLE_DEVICES"


def gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the GPUs that a process was told to use; empty where it was told of none, or nothing."""
    listed = (item.strip() for item in environment.get(DEVICES, "").split(","))
    return [item for item in listed if item not in ("", "NoDevFiles")]  # the latter is Slurm's word for none


def read_provenance(paths: RunPaths) -> dict[str, Any]:
    """Reads provenance.json; {} where there is none that can be read."""
    return read_json_or_empty(paths.provenance)


def recorded_inputs(paths: RunPaths) -> Inputs:
    """Returns the inputs that a result, or the newest checkpoint of a run without one, was made with; {} if unknown."""
    if paths.summary.exists():
        return inputs_in(read_provenance(paths))
    return cast("Inputs", saved_progress(paths).get("inputs", {}))


def packages_in(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the versions of packages by name that provenance.json holds; {} where it holds something else there."""
    packages = record.get("packages")
    return {name: str(version) for name, version in packages.items()} if isinstance(packages, dict) else {}


def inputs_in(record: Mapping[str, Any]) -> Inputs:
    """Returns the inputs that provenance.json names; what has another form there is left out."""
    if digest := record.get("data_sha256"):  # as runs recorded it before they recorded all inputs
        return {"data.dataset.path": {"sha256": digest}}
    inputs = record.get("inputs")
    return {name: item for name, item in inputs.items() if isinstance(item, dict)} if isinstance(inputs, dict) else {}


def write_provenance(
    paths: RunPaths,
    config: Mapping[str, Any],
    inputs: Inputs,
    attempt: int,
    live: Callable[[], Code] | None = None,
    fence: Callable[[], None] = unfenced,
) -> None:
    """Records what this attempt runs with; uncommitted changes of the code go to a diff file beside it.

    `live` as of `provenance_of_code`, `fence` as of `gpt_opt.records.io.write_text`.
    """
    code, diff = provenance_of_code(live)
    if diff:
        write_text(paths.git_diff, diff, fence)
    record: dict[str, Any] = {
        "time": now(),
        "attempt": attempt,
        **code,
        "git_diff": paths.git_diff.name if diff else None,
        "command": sys.argv,
        "seed": config.get("seed"),
        "inputs": inputs,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cuda_visible_devices": os.environ.get(DEVICES),
        "slurm": slurm_ids(),
        "python": platform.python_version(),
        "packages": packages(),
    }
    write_text(paths.provenance, to_json(record), fence)


@cache
def packages() -> dict[str, str]:
    """Returns the installed distributions and their versions, by name; of several of one name, the one imported.

    `item.metadata` would parse each description as a mail, a fifth of a second for 160 packages.
    """
    from importlib.metadata import distributions  # what most commands do without

    found: dict[str, str] = {}
    for item in distributions():
        head = (item.read_text("METADATA") or item.read_text("PKG-INFO") or "").partition("\n\n")[0]
        fields = dict(re.findall(r"^(Name|Version):[ \t]*(.*?)[ \t\r]*$", head, re.MULTILINE))
        if len(fields) == 2:
            found.setdefault(fields["Name"], fields["Version"])
    return dict(sorted(found.items(), key=lambda entry: entry[0].lower()))
