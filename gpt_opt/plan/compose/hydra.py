"""Hydra itself, called point by point: what every other way of composing is measured against.

Input: override strings. Output: the composed `DictConfig`, or its plain resolved tree. Unlike
`hydra.initialize_config_dir`, nothing here touches `GlobalHydra`, so it also works inside `@hydra.main`.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any, ClassVar, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.utils import setup_globals
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gpt_opt.app.app import App
from gpt_opt.app.defaults import WithoutGroups, composing_as
from gpt_opt.plan.compose.resolvers import leave_as_text, with_choices
from gpt_opt.plan.compose.stored import StoringLoader

_LOADING = frozenset({"create_defaults_list", "_compose_config_from_defaults_list"})


@dataclass(frozen=True)
class Configs:
    """Where configs are, and how Hydra composes them.

    Attributes:
        folder: Holds the primary config and the config groups; None where all are registered.
        name: The primary config, without `.yaml`.
        further: Folder of more config groups, as `--config-dir` gives one.
        version_base: As in `@hydra.main`.
        is_alone: Whether the primary config is all there is.
        is_stored: Whether compositions are kept for other processes.
        not_read: Keys, with all below them, whose resolvers are not called: they identify no run, and may make folders.
    """

    folder: Path | None
    name: str = "config"
    further: Path | None = None
    version_base: str | None = "1.3"
    is_alone: bool = False
    is_stored: bool = True
    not_read: frozenset[str] = frozenset()

    @classmethod
    def of(cls, app: App) -> Configs:
        """Returns those of an application."""
        ours, excluded = not app.planned_apart, app.identity.excluded
        not_read = frozenset[str]() if ours else excluded
        return cls(app.config_dir, app.config_name, app.further, app.version_base, app.only_config, ours, not_read)


class _Files(ConfigRepository):
    """The config files, each read once as long as it stays the same: Hydra reads all of them for every config.

    Attributes:
        is_stored: Whether their compositions are kept; not those of another application, which may hold objects of it.
    """

    is_stored: bool
    _read: ClassVar[dict[tuple[str, str], tuple[tuple[int, ...], bytes]]] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() != "file":
            return super().load_config(config_path)
        path = Path(source.path, source._normalize_file_name(config_path))
        stat = path.stat()
        key, version = (source.provider, str(path)), (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known, pickled = self._read.get(key, ((), b""))
        if known != version:
            pickled = pickle.dumps(super().load_config(config_path))
            self._read[key] = (version, pickled)
        return cast("ConfigResult", pickle.loads(pickled))  # its own: Hydra merges other configs into it

    def __deepcopy__(self, memo: dict[int, Any]) -> _Files:
        """Copies what Hydra replaces for a config, the list of its sources; it does not change the sources."""
        return copy.copy(self)


class _OneFile(WithoutGroups, _Files):
    """The primary config of another application, which is all that it has."""


class _Loader(StoringLoader):
    """A loader that composes with a version_base of its own, whatever that of the process is."""

    def __init__(self, path: ConfigSearchPath, version_base: str | None) -> None:
        super().__init__(path)
        self._version_base = version_base

    def load_configuration(self, *arguments: Any, **options: Any) -> DictConfig:
        with composing_as(self._version_base):
            return super().load_configuration(*arguments, **options)


class Known(ConfigLoaderImpl):
    """A loader for one run whose config was composed already.

    Args:
        loader: What composed it.
        config: As `loader.load_configuration` returned it.
    """

    def __init__(self, loader: ConfigLoaderImpl, config: DictConfig) -> None:
        super().__init__(loader.config_search_path)
        self.repository, self._config = loader.repository, config

    def load_configuration(self, *_: Any, **__: Any) -> DictConfig:
        """Returns the config, told that it is one run's; Hydra asks once, and changes it."""
        self._config.hydra.mode = RunMode.RUN
        self._config.hydra.overrides.hydra.append("hydra.mode=RUN")
        return self._config


class HydraEngine:
    """Composes one point at a time with Hydra's own config loader.

    Args:
        configs: Where the configs are.
    """

    def __init__(self, configs: Configs) -> None:
        if not all(OmegaConf.has_resolver(name) for name in ("now", "hydra", "python_version")):
            setup_globals()
        self._configs, self._loader = configs, loader(configs)
        self._groups: dict[str, bool] = {}
        self._repository: Any = None

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """Returns what `hydra.compose(config_name, overrides)` returns.

        Raises:
            Exception: Whatever Hydra or OmegaConf raises for these overrides.
        """
        config = load(self._loader, self._configs.name, overrides, from_shell=False)
        if not self._configs.is_stored:  # those of another application
            with_choices(config, config.hydra.runtime.choices)
        config = without_hydra(config)
        for key in self._configs.not_read:
            leave_as_text(config, key)
        return config

    def is_group(self, name: str) -> bool:
        """Returns whether `name` is a config group, in the sources that Hydra itself would search."""
        if name not in self._groups:
            with composing_as(self._configs.version_base):
                if self._repository is None:
                    _, self._repository = self._loader._parse_overrides_and_create_caching_repo(self._configs.name, [])
                try:
                    self._groups[name] = self._repository.group_exists(name)
                except OSError:  # too long for a folder's name
                    self._groups[name] = False
        return self._groups[name]


def loader(configs: Configs) -> ConfigLoaderImpl:
    """Returns a loader of configs, which seeks and composes them as Hydra does when a script calls it."""
    path = create_config_search_path(None if configs.folder is None else str(configs.folder.resolve()))
    if configs.further is not None:  # what `--config-dir` gives
        path.prepend("command-line", f"file://{configs.further.resolve()}", SearchPathQuery(provider="schema"))
    made, files = _Loader(path, configs.version_base), (_OneFile if configs.is_alone else _Files)(path)
    files.is_stored = configs.is_stored
    made.repository = files
    return made


def load(loader: ConfigLoaderImpl, name: str, overrides: Sequence[str], **options: bool) -> DictConfig:
    """Returns the config of a run, Hydra's own node included.

    Args:
        loader: Of the config folder.
        name: Of the root config.
        overrides: What the run is given.
        options: Of `load_configuration`.

    Raises:
        Exception: Whatever Hydra or OmegaConf raises for these overrides.
    """
    return loader.load_configuration(name, list(overrides), run_mode=RunMode.RUN, **options)


def without_hydra(config: DictConfig) -> DictConfig:
    """Removes Hydra's own node from a config, and returns the config."""
    if "hydra" in config:
        with open_dict(config):
            del config["hydra"]
    return config


def plain(config: Any) -> Any:
    """Resolves a config into plain dicts, lists and scalars; missing values stay "???"."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=False, enum_to_str=True)


def unresolved(config: DictConfig) -> dict[str, Any]:
    """Returns a config as plain dicts, lists and scalars, its interpolations as text."""
    return cast("dict[str, Any]", OmegaConf.to_container(config, throw_on_missing=False, enum_to_str=True))


def failed_while_loading(error: BaseException) -> bool:
    """Returns whether Hydra gave up on the defaults list or a config file, before it applied any value override."""
    return any(frame.f_code.co_name in _LOADING for frame, _ in walk_tb(error.__traceback__))


def detached(error: Exception) -> Exception:
    """Drops the stack frames and config nodes that an exception holds: kept by the thousand they fill the memory."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        if isinstance(link, OmegaConfBaseException):
            link.parent_node = link.child_node = None
        link = link.__cause__ or link.__context__
    return error
