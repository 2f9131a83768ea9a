"""What a result was made with: code, packages, machine. Never the environment, which may hold secrets."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, cast

from gpt_opt.records.io import now, read_json_object, to_json, write_text
from gpt_opt.records.job_id import slurm_ids
from gpt_opt.records.run_dir import PROGRESS_FILE, RunPaths, checkpoints

Inputs = Mapping[str, Mapping[str, str]]
"""Config key, or name of a module of the user's, to `path` and `sha256`."""


def _git(*arguments: str) -> str | None:
    """Returns the output of git in the project's own folder, or None where that is no repository."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def gpus() -> list[str]:
    """Returns the GPUs that this process was told to use; empty when it was told nothing."""
    return [item for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item]


def recorded_inputs(paths: RunPaths) -> Inputs:
    """Returns the inputs that a result, or the newest checkpoint of a run without one, was made with; {} if unknown."""
    try:
        if not paths.summary.exists():
            newest = checkpoints(paths.checkpoints)[-1:]
            return read_json_object(newest[0] / PROGRESS_FILE).get("inputs", {}) if newest else {}
        record = read_json_object(paths.provenance)
    except (OSError, ValueError):
        return {}
    if digest := record.get("data_sha256"):  # as runs recorded it before they recorded all inputs
        return {"data.dataset.path": {"sha256": digest}}
    return cast("Inputs", record.get("inputs", {}))


def write_provenance(paths: RunPaths, config: Mapping[str, Any], inputs: Inputs, attempt: int) -> None:
    """Records what this attempt runs with; uncommitted changes of the code go to a diff file beside it.

    Args:
        paths: The run.
        config: The resolved config.
        inputs: Its files and modules, with their fingerprints.
        attempt: Number of the attempt.
    """
    commit, diff, changes = _git("rev-parse", "HEAD"), _git("diff", "HEAD"), _git("status", "--porcelain")
    if diff:
        write_text(paths.git_diff, diff)
    record: dict[str, Any] = {
        "time": now(),
        "attempt": attempt,
        "git_commit": commit.strip() if commit else None,
        "git_dirty": bool(changes) if changes is not None else None,
        "git_diff": paths.git_diff.name if diff else None,
        "command": sys.argv,
        "seed": config["seed"],
        "inputs": inputs,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "slurm": slurm_ids(),
        "python": platform.python_version(),
        "packages": {item.metadata["Name"]: item.version for item in sorted(distributions(), key=_name)},
    }
    write_text(paths.provenance, to_json(record))


def _name(item: Any) -> str:
    return str(item.metadata["Name"]).lower()
