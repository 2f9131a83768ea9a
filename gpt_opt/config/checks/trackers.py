"""What must hold for the trackers that a run reports to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpt_opt.errors import Problem

TRACKERS = ("tensorboard", "wandb", "mlflow")
"""Names in `report_to`; each is also the package that it needs and the extra of gpt-opt that installs it."""

_PARAMS = "logging.logging_params"


def tracker_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that every tracker is known, installed and can be logged in to, and that no key of another one is set.

    None of them is imported.
    """
    params = config["logging"]["logging_params"]
    asked = params["report_to"]
    if unknown := [name for name in asked if name not in TRACKERS]:
        problem = f"must name any of {', '.join(TRACKERS)}, but has {', '.join(map(repr, unknown))}"
        yield Problem(f"{_PARAMS}.report_to", problem, "leave it [] to report to none")
    for name in dict.fromkeys(asked):
        if name in TRACKERS and not _is_installed(name):
            problem = f"report_to={name} needs the package {name}: pip install 'gpt-opt[{name}]'"
            yield Problem(f"{_PARAMS}.report_to", problem, f"the Python that lacks it is {sys.executable}")
    yield from _access_problems(params)
    for key, tracker in {"logging_dir": "tensorboard", **{f"wandb.{key}": "wandb" for key in params["wandb"]}}.items():
        group, _, leaf = key.rpartition(".")
        if (params[group] if group else params)[leaf] not in (None, []) and tracker not in asked:
            problem = f"is for {tracker} alone, but report_to={list(asked)}"
            yield Problem(f"{_PARAMS}.{key}", problem, f"add {tracker} to {_PARAMS}.report_to, or leave the key out")


def _access_problems(params: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks what the environment must hold, on the machine that asks for runs for the one that makes them."""
    asked, mode = params["report_to"], params["wandb"]["mode"] or os.environ.get("WANDB_MODE", "online")
    if "wandb" in asked and mode == "online" and not _is_logged_in():
        fix = f"wandb login, or export WANDB_API_KEY=..., or {_PARAMS}.wandb.mode=offline and wandb sync later"
        yield Problem(f"{_PARAMS}.report_to", "report_to=wandb needs a key, but there is none", fix)
    if "mlflow" in asked and "MLFLOW_TRACKING_URI" not in os.environ:
        problem = "report_to=mlflow needs the address of a server in the environment"
        yield Problem(f"{_PARAMS}.report_to", problem, "export MLFLOW_TRACKING_URI=http://HOST:PORT")


def _is_logged_in() -> bool:
    """Returns whether wandb may find a key: in the environment, in a netrc file, or by settings files of its own."""
    home = Path(os.path.expanduser("~"))
    own = Path(os.environ.get("WANDB_CONFIG_DIR", home / ".config" / "wandb"), "settings")
    if {"WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"} & os.environ.keys() or own.exists():
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc
    for file in [os.environ["NETRC"]] if "NETRC" in os.environ else [home / ".netrc", home / "_netrc"]:
        try:
            hosts = netrc(str(file)).hosts.keys()
        except (OSError, NetrcParseError):
            continue
        if hosts & ({server} if server else _WANDB_HOSTS):
            return True
    return False


_WANDB_HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}
"""Servers that wandb takes where it is told none, before and since version 0.31."""


def _is_installed(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None  # a mere folder of that name, as wandb makes one, has no origin
