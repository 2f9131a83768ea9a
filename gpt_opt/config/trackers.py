"""What must hold for the trackers that a run reports to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from gpt_opt.errors import Problem

TRACKERS = ("tensorboard", "wandb", "mlflow")
"""Names in `report_to`; each is also the package that it needs and the extra of gpt-opt that installs it."""

_PARAMS = "logging.logging_params"


def tracker_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that every tracker is known and installed, and that no key of another one is set; imports none of them."""
    params = config["logging"]["logging_params"]
    asked = params["report_to"]
    if unknown := [name for name in asked if name not in TRACKERS]:
        problem = f"must name any of {', '.join(TRACKERS)}, but has {', '.join(map(repr, unknown))}"
        yield Problem(f"{_PARAMS}.report_to", problem, "leave it [] to report to none")
    for name in dict.fromkeys(asked):
        if name in TRACKERS and not _is_installed(name):
            problem = f"report_to={name} needs the package {name}: pip install 'gpt-opt[{name}]'"
            yield Problem(f"{_PARAMS}.report_to", problem, f"the Python that lacks it is {sys.executable}")
    for key, tracker in {"logging_dir": "tensorboard", **{f"wandb.{key}": "wandb" for key in params["wandb"]}}.items():
        group, _, leaf = key.rpartition(".")
        if (params[group] if group else params)[leaf] not in (None, []) and tracker not in asked:
            problem = f"is for {tracker} alone, but report_to={list(asked)}"
            yield Problem(f"{_PARAMS}.{key}", problem, f"add {tracker} to {_PARAMS}.report_to, or leave the key out")


def _is_installed(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None  # a mere folder of that name, as wandb makes one, has no origin
