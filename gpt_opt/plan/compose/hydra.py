"""Hydra itself, called point by point: what every other way of composing is measured against.

Input: override strings. Output: the composed `DictConfig`, or its plain resolved tree. Unlike
`hydra.initialize_config_dir`, nothing here touches `GlobalHydra`, so it also works inside `@hydra.main`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf, open_dict

VERSION_BASE = "1.3"
"""The `version_base` that configs are composed with, as `run_hydra.py` does."""

_LOADING = frozenset({"create_defaults_list", "_compose_config_from_defaults_list"})


class HydraEngine:
    """Composes one point at a time with Hydra's own config loader.

    Args:
        config_dir: Folder that holds the primary config and the config groups.
        config_name: Name of the primary config, without `.yaml`.
        further: Folder of more config groups, as `--config-dir` gives one.
    """

    def __init__(self, config_dir: Path, config_name: str, further: Path | None = None) -> None:
        self.config_name = config_name
        if not all(OmegaConf.has_resolver(name) for name in ("now", "hydra", "python_version")):
            setup_globals()
        self._loader = ConfigLoaderImpl(search_path(config_dir, further))
        self._groups: dict[str, bool] = {}
        self._repository: Any = None

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """Return what `hydra.compose(config_name, overrides)` returns.

        Raises:
            Exception: Whatever Hydra or OmegaConf raises for these overrides.
        """
        with _version_base():
            config = self._loader.load_configuration(
                self.config_name, list(overrides), run_mode=RunMode.RUN, from_shell=False
            )
            if "hydra" in config:
                with open_dict(config):
                    del config["hydra"]
            return config

    def is_group(self, name: str) -> bool:
        """Tell whether `name` is a config group, in the sources that Hydra itself would search."""
        if name not in self._groups:
            with _version_base():
                if self._repository is None:
                    _, self._repository = self._loader._parse_overrides_and_create_caching_repo(self.config_name, [])
                try:
                    self._groups[name] = self._repository.group_exists(name)
                except OSError:  # too long for a folder's name
                    self._groups[name] = False
        return self._groups[name]


def search_path(config_dir: Path, further: Path | None = None) -> ConfigSearchPath:
    """Returns where Hydra seeks configs when run_hydra.py calls it, `further` being what `--config-dir` gives."""
    path = create_config_search_path(str(config_dir.resolve()))
    if further is not None:
        path.prepend("command-line", f"file://{further.resolve()}", SearchPathQuery(provider="schema"))
    return path


def plain(config: Any) -> Any:
    """Resolve a config into plain dicts, lists and scalars; missing values stay "???"."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=False, enum_to_str=True)


def failed_while_loading(error: BaseException) -> bool:
    """Tell whether Hydra gave up on the defaults list or a config file, before it applied any value override."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name in _LOADING:
            return True
        trace = trace.tb_next
    return False


def detached(error: Exception) -> Exception:
    """Drop the stack frames and config nodes that an exception holds: kept by the thousand they fill the memory."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        for name in ("parent_node", "child_node"):
            if hasattr(link, name):
                setattr(link, name, None)
        link = link.__cause__ or link.__context__
    return error


@contextmanager
def _version_base() -> Iterator[None]:
    """Compose with our version_base, and give the process back the one that it had."""
    base = VersionBase.instance()
    before = base.version_base
    setbase(VERSION_BASE)
    try:
        yield
    finally:
        base.version_base = before
