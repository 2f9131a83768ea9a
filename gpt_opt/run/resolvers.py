"""Which directory a composed config runs in: the resolvers `run_dir` and `get_local_run_dir`."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from gpt_opt.app.label import label
from gpt_opt.config.checks.models import listed_model
from gpt_opt.config.explain import missing_keys, missing_problem
from gpt_opt.config.files import with_real_paths
from gpt_opt.errors import ConfigError
from gpt_opt.records.run_dir import RunFolders, make_run_dir, path_part, run_dir_name
from gpt_opt.records.run_id import TRAINING, run_id

DRY_RUN_PREFIX = "gpt-opt-dry-run-"
"""Name of the empty directory that a dry run gets from here; only such a one is removed after it."""

SHOWN_IN_PATH = frozenset({"model", "data", "optimizer"})
"""Config groups whose choice is a folder of its own above the run directory."""


@contextmanager
def without_hydra(config: DictConfig) -> Iterator[DictConfig]:
    """Takes Hydra's own node out of a composed config inside the block: a copy would take longer than all else here."""
    content = config.__dict__["_content"]
    whole = dict(content)
    content.pop("hydra", None)
    try:
        yield config
    finally:
        content.clear()
        content.update(whole)


def plain_config(config: DictConfig) -> dict[str, Any]:
    """Returns the resolved config as plain containers, with real paths of files and without Hydra's own node.

    Raises:
        ConfigError: If mandatory values are missing; all of them are named.
    """
    with without_hydra(config) as own:
        if missing := sorted(missing_keys(OmegaConf.to_container(own))):
            raise ConfigError([missing_problem(key, None, {}) for key in missing])
        return with_real_paths(cast("dict[str, Any]", OmegaConf.to_container(own, resolve=True, enum_to_str=True)))


def parent_dir(config: Mapping[str, Any]) -> Path:
    """Returns `<output_dir>/<model>/<dataset>/<optimizer>` of a resolved config, absolute."""
    return Path(config["paths"]["output_dir"], *map(path_part, _parent_names(config))).absolute()


def _parent_names(config: Mapping[str, Any]) -> tuple[str, str, str]:
    params = config["optimizer"]["optimizer_params"]
    return config["model"]["name"], config["data"]["dataset"]["name"], params["name"]


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
    return config["paths"]["run_name"] or label(overrides, TRAINING, SHOWN_IN_PATH)


def _run_dir(*, _root_: DictConfig) -> str:
    """Makes, as the resolver of hydra.run.dir, the one directory of this config; a dry run gets one to throw away."""
    config = plain_config(_root_)
    if config["dry_run"]:
        return tempfile.mkdtemp(prefix=DRY_RUN_PREFIX)
    identity = run_id(config)
    name = run_dir_name(run_label(config, list(_root_.hydra.overrides.task)), identity)
    return str(make_run_dir(parent_dir(config) / name, identity))


def get_local_run_dir(exp_name: str, local_dirs: Sequence[str]) -> str:
    """Makes, as a resolver, a new directory `<base>/<user>/<exp_name>_<time>` and returns it.

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
