"""Which directory a composed config runs in: the resolvers `run_dir` and `get_local_run_dir`."""

from __future__ import annotations

import getpass
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from gpt_opt.config.checks.models import listed_model
from gpt_opt.config.explain import missing_keys
from gpt_opt.config.files import with_real_paths
from gpt_opt.config.overrides import parse_override
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.records.run_dir import LABEL_LIMIT, RunFolders, allocate_run_dir, path_part, run_dir_name
from gpt_opt.records.run_id import is_identity, run_id

DRY_RUN_PREFIX = "gpt-opt-dry-run-"
"""Name of the empty directory that a dry run gets from here; only such a one is removed after it."""

SHOWN_IN_PATH = frozenset({"model", "data", "optimizer"})
"""Config groups whose choice is a folder of its own above the run directory."""


def without_hydra(config: DictConfig) -> DictConfig:
    """Returns a composed config without Hydra's own node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def plain_config(config: DictConfig) -> dict[str, Any]:
    """Returns the resolved config as plain containers, with real paths of files and without Hydra's own node.

    Raises:
        ConfigError: If mandatory values are missing; all of them are named.
    """
    own = without_hydra(config)
    if missing := missing_keys(own):
        raise ConfigError([Problem(key, "is mandatory and has no default", f"add {key}=VALUE") for key in missing])
    return with_real_paths(cast("dict[str, Any]", OmegaConf.to_container(own, resolve=True, enum_to_str=True)))


def parent_dir(config: Mapping[str, Any]) -> Path:
    """Returns `<output_dir>/<model>/<dataset>/<optimizer>` of a resolved config, absolute."""
    return Path(config["paths"]["output_dir"], *map(path_part, _parent_names(config))).absolute()


def _parent_names(config: Mapping[str, Any]) -> tuple[str, str, str]:
    params = config["optimizer"]["optimizer_params"]
    return config["model"]["name"], config["data"]["dataset"]["name"], params["name"]


def label(overrides: Sequence[str], seen: frozenset[str] = SHOWN_IN_PATH) -> str:
    """Returns a short readable text of what was asked for: `beta=0.1,lr=0.001`, sorted; `default` for nothing.

    Of a key given several times the last value counts. Of a path stays what tells it from others: the run that it
    belongs to, or its last parts. Where all of it is too long for a file name, long values are shortened further.

    Args:
        overrides: Hydra override strings of one point.
        seen: Keys that the path shows already.
    """
    last = dict(map(_label_part, overrides))
    parts = sorted(part for key, part in last.items() if key not in seen and part)
    for limit in _VALUE_LIMITS:
        text = ",".join(_limited(part, limit) for part in parts)
        if len(text) <= LABEL_LIMIT:
            break
    return text or "default"


_VALUE_LIMITS = (60, 40, 30, 24, 18, 14, 10)
"""Characters to which values are shortened, one after the other, until a label fits."""


def _limited(part: str, limit: int) -> str:
    """Returns `key=value` with the run id, or else the end, of a value that is too long, `--` for its beginning."""
    if len(part) <= limit:
        return part
    name, sign, value = part.partition("=")
    if len(value) > limit and _RUN_FIRST.match(value):
        return f"{name}={value[:12]}"
    return part if len(value) <= limit else f"{name}{sign}--{value[len(value) - limit + 2 :].lstrip('-')}"


_RUN_FIRST = re.compile(r"[0-9a-f]{12}(/|$)")
_RUN_IN_PATH = re.compile(r"-([0-9a-f]{12})(?=/|$)")


def _path_value(value: str) -> str:
    """Returns of a path the id of the run in it and what follows, else its last two parts."""
    if value.startswith(("[", "{")):
        return value
    value = value.removeprefix("run:")
    if (found := _RUN_IN_PATH.search(value)) is not None:
        return (found[1] + value[found.end() :]).replace("/checkpoints/", "/")
    return "/".join(value.rstrip("/").split("/")[-2:])


@lru_cache(maxsize=1 << 16)
def _label_part(text: str) -> tuple[str, str]:
    """Returns the key of an override and what a label says of it, nothing where it cannot change the result."""
    override = parse_override(text)
    key = override.key_or_group
    if not is_identity(key):
        return key, ""
    value = "" if override.is_delete() else "=" + _path_value(override.get_value_element_as_str().strip("'\""))
    return key, key.rpartition(".")[2] + value


NEW_DIRECTORY = "(a new directory)"
"""Stands for the run directory under paths=local_run_dir."""


class RunFinder:
    """Finds the directories of runs by their configs, looking into each folder of runs once; makes none."""

    def __init__(self) -> None:
        self._folders = RunFolders()
        self._parents: dict[tuple[str, ...], Path] = {}

    def _parent(self, config: Mapping[str, Any]) -> Path:
        names = (config["paths"]["output_dir"], *_parent_names(config))
        if names not in self._parents:
            self._parents[names] = parent_dir(config)
        return self._parents[names]

    def find(self, config: Mapping[str, Any], run_id: str, overrides: Sequence[str]) -> tuple[str, bool]:
        """Returns where a run lies, or would lie, and whether it does; `NEW_DIRECTORY` where each start makes one."""
        if "output_dir" not in config["paths"]:
            return NEW_DIRECTORY, False
        parent = self._parent(config)
        if (found := self._folders.find(str(parent), run_id)) is not None:
            return found, True
        return f"{parent}/{run_dir_name(run_label(config, overrides), run_id)}", False


def run_label(config: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Returns the readable part of a run directory: `paths.run_name`, or else what was asked for."""
    return config["paths"]["run_name"] or label(overrides)


def _run_dir(*, _root_: DictConfig) -> str:
    """Resolver of hydra.run.dir: makes the one directory of this config; a dry run gets one to throw away."""
    config = plain_config(_root_)
    if config["dry_run"]:
        return tempfile.mkdtemp(prefix=DRY_RUN_PREFIX)
    overrides = list(_root_.hydra.overrides.task)
    return str(allocate_run_dir(parent_dir(config), run_label(config, overrides), run_id(config)))


def get_local_run_dir(exp_name: str, local_dirs: Sequence[str]) -> str:
    """Resolver: makes a new directory `<base>/<user>/<exp_name>_<time>` and returns it.

    Args:
        exp_name: Name of the experiment.
        local_dirs: Candidates for the base: the first that exists is taken, the last is made when none does.
    """
    base = next((Path(item) for item in local_dirs if Path(item).is_dir()), Path(local_dirs[-1]))
    parent = base.absolute() / getpass.getuser()
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        # Microseconds, and mkdir as the judge: two runs that start together get two directories.
        chosen = parent / f"{path_part(exp_name)}_{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        try:
            chosen.mkdir()
        except FileExistsError:
            continue
        return str(chosen)


def _listed_model(models: Any, index: Any, key: str) -> Any:
    """Resolver: `gpt_opt.config.checks.models.listed_model` of nodes of the config."""
    return listed_model(OmegaConf.to_container(models) if OmegaConf.is_config(models) else models, index, key)


def _model_indices(models: Any) -> str:
    """Resolver: every index of `models`, as --multirun goes through them."""
    return ",".join(map(str, range(len(models or ()))))


def register_resolvers() -> None:
    """Makes the resolvers of hydra_conf/ known to OmegaConf; doing it twice changes nothing."""
    OmegaConf.register_new_resolver("listed_model", _listed_model, replace=True)
    OmegaConf.register_new_resolver("model_indices", _model_indices, replace=True)
    OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
    OmegaConf.register_new_resolver("get_local_run_dir", get_local_run_dir, replace=True, use_cache=True)
