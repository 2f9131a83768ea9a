"""A run of a sweep trains the config that was planned, or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_opt.errors import ConfigError, Problem
from gpt_opt.records.planned_configs import CHANGED, changes_text, planned_config
from gpt_opt.records.run_id import TRAINING, run_id
from gpt_opt.records.sweep_dir import Sweep

RUN_ID = "GPTOPT_RUN_ID"
"""Environment variable of a run of a sweep: the id that was planned."""

SWEEP_DIR = "GPTOPT_SWEEP_DIR"
"""Environment variable of a run of a sweep: its sweep directory."""


def require_planned(configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a config that is not the one that this process was started for, before anything of a run is made.

    The variables are taken out of the environment: other runs that this process may start are not this one.

    Raises:
        ConfigError: If one has another id; names the keys that differ.
    """
    planned, folder = os.environ.pop(RUN_ID, None), os.environ.pop(SWEEP_DIR, "")
    if planned is None:
        return
    for config in configs:
        if (composed := run_id(config)) != planned:
            known = planned_config(Sweep(Path(folder)).planned_configs, planned)
            message = f"{CHANGED}, but {_differences(known, config)}"
            fix = f"put it back and gptopt retry the run; or submit the sweep file again, which plans run {composed}"
            raise ConfigError([Problem(f"run {planned}", message, fix)], ", nothing was started")


def _differences(planned: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    if planned is None:
        return "has another; in which keys is not known, since the sweep has no record of its planned configs"
    differing = TRAINING.differences(planned, json.loads(json.dumps(config)))
    if not differing:
        return "has another id: no key differs, but the code that makes ids of configs has changed"
    return changes_text(differing)
