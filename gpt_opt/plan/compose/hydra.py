"""Hydra itself, called point by point: what every other way of composing is measured against.

Input: override strings. Output: the composed `DictConfig`, or its plain resolved tree. Unlike
`hydra.initialize_config_dir`, nothing here touches `GlobalHydra`, so it also works inside `@hydra.main`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gpt_opt.config.schema import VERSION_BASE

_LOADING = frozenset({"create_defaults_list", "_compose_config_from_defaults_list"})


class _Files(ConfigRepository):
    """The config files, each read once as long as it stays the same: Hydra reads all of them for every config."""

    _read: ClassVar[dict[tuple[str, str], tuple[tuple[int, ...], ConfigResult]]] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() != "file":
            return super().load_config(config_path)
        path = Path(source.path, source._normalize_file_name(config_path))
        stat = path.stat()
        key, version = (source.provider, str(path)), (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known, result = self._read.get(key, ((), None))
        if known != version or result is None:
            result = super().load_config(config_path)
            assert result is not None
            self._read[key] = (version, result)
        return copy.deepcopy(result)  # Hydra merges other configs into it

    def __deepcopy__(self, memo: dict[int, Any]) -> _Files:
        """Copies what Hydra replaces for a config, the list of its sources; it does not change the sources."""
        return copy.copy(self)


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
        config_dir: Folder that holds the primary config and the config groups.
        config_name: Name of the primary config, without `.yaml`.
        further: Folder of more config groups, as `--config-dir` gives one.
    """

    def __init__(self, config_dir: Path, config_name: str, further: Path | None = None) -> None:
        self.config_name = config_name
        if not all(OmegaConf.has_resolver(name) for name in ("now", "hydra", "python_version")):
            setup_globals()
        self._loader = loader(search_path(config_dir, further))
        self._groups: dict[str, bool] = {}
        self._repository: Any = None

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """Returns what `hydra.compose(config_name, overrides)` returns.

        Raises:
            Exception: Whatever Hydra or OmegaConf raises for these overrides.
        """
        return without_hydra(load(self._loader, self.config_name, overrides, from_shell=False))

    def is_group(self, name: str) -> bool:
        """Returns whether `name` is a config group, in the sources that Hydra itself would search."""
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


def loader(path: ConfigSearchPath) -> ConfigLoaderImpl:
    """Returns a loader of the configs on a search path, which composes as Hydra's does."""
    made = ConfigLoaderImpl(path)
    made.repository = _Files(path)
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
    with _version_base():
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


def missing_keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Yields the keys in a plain tree that hold "???": `a.b`, `a[0]` inside lists, the prefix for a scalar."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from missing_keys(child, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from missing_keys(child, f"{prefix}[{index}]")
    elif isinstance(value, str) and value == "???":
        yield prefix


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


@contextmanager
def _version_base() -> Iterator[None]:
    """Composes with our version_base, and gives the process back the one that it had."""
    base = VersionBase.instance()
    before = base.version_base
    setbase(VERSION_BASE)
    try:
        yield
    finally:
        base.version_base = before
