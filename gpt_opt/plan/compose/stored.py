"""Config files composed, kept for other processes: of what Hydra does for a run this takes the most, some 0.4 s.

Only overrides that choose groups have a say in which files are composed; all others are applied to the composition
after that, by Hydra, in each process. An entry names the files that it was made of and what they held. It is a pickle,
so one that others can write to is not read. Any entry may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import stat
import warnings
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import FunctionType
from typing import Any

import hydra
import omegaconf
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.defaults_list import create_defaults_list as _create_defaults_list
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from gpt_opt.config.cache import cache_folder
from gpt_opt.records.io import write_bytes

log = logging.getLogger(__name__)

_FORMAT = 2
"""Changes whenever the layout of an entry changes."""

_CALL = re.compile(r"\$\{[^}]*:")
"""A call of a resolver: a choice that one makes may depend on the environment."""


class _Stored(list[Any]):
    """Stands for a defaults list whose composition is known."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        self.config = config


class _New(list[Any]):
    """A defaults list whose composition is to be kept.

    Args:
        defaults: The list.
        file: Where to keep it.
        choices: The option of each group.
    """

    def __init__(self, defaults: Sequence[Any], file: Path, choices: Mapping[str, Any]) -> None:
        super().__init__(defaults)
        self._file, self._choices = file, dict(choices)

    def store(self, config: DictConfig, repo: CachingConfigRepository) -> None:
        """Keeps the composition; one that cannot be written costs time, no run."""
        try:
            lists = [loaded.defaults_list or () for loaded in repo.cache.values() if loaded is not None]
            if any(_CALL.search(str(vars(default))) for defaults in lists for default in defaults):
                return
            made_of = {path: _digest(_content(repo, path)) for path in (key.partition("=")[2] for key in repo.cache)}
            data = _pickled(made_of, self._choices, config)
            folder = self._file.parent
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)  # whatever made it: what is unpickled is of this user alone
            write_bytes(self._file, hashlib.sha256(data).digest() + data)
            self._file.chmod(0o600)  # whatever the umask
        except (OSError, *_NOT_PICKLED) as error:
            log.debug("a composition is not cached in %s: %s", self._file.parent, error)


def _pickled(made_of: Mapping[str, bytes], choices: Mapping[str, Any], config: DictConfig) -> bytes:
    """Returns an entry; what time it is another process asks for itself."""
    times = OmegaConf.get_cache(config)
    OmegaConf.clear_cache(config)
    try:
        return pickle.dumps((made_of, choices, config))
    finally:
        OmegaConf.set_cache(config, times)


def create_defaults_list(
    repo: Any, config_name: str | None, overrides_list: list[Any], prepend_hydra: bool, skip_missing: bool
) -> DefaultsList:
    """Does what Hydra's `create_defaults_list` does, which leads to the same composition."""

    def create() -> DefaultsList:
        return _create_defaults_list(repo, config_name, overrides_list, prepend_hydra, skip_missing)

    folder = cache_folder("compositions")
    if folder is None or not repo.delegate.is_stored:
        return create()
    overrides = Overrides(repo, overrides_list)
    of_values = {id(item) for item in overrides.config_overrides}
    structure = [item.input_line for item in overrides_list if id(item) not in of_values]
    if any(_CALL.search(str(line)) for line in structure):
        return create()
    versions = [_FORMAT, os.getuid(), hydra.__version__, omegaconf.__version__]
    key = json.dumps([*versions, config_name, structure, prepend_hydra, skip_missing])
    file = folder / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    if (found := _read(file, repo)) is not None:
        overrides.known_choices, config = found
        return DefaultsList(_Stored(config), None, overrides.config_overrides, overrides)  # type: ignore[arg-type]
    result = create()
    result.defaults = _New(result.defaults, file, result.overrides.known_choices)
    return result


class StoringLoader(ConfigLoaderImpl):
    """Hydra's loader, which takes compositions from the cache and puts them into it.

    Hydra has its loader call a function to make the defaults list. Its method is here once more, with the same code,
    for which that name is ours; Hydra's own stays as it is for everybody else.
    """

    _load_configuration_impl: Any = FunctionType(
        ConfigLoaderImpl._load_configuration_impl.__code__,
        {**vars(config_loader_impl), "create_defaults_list": create_defaults_list},
        argdefs=ConfigLoaderImpl._load_configuration_impl.__defaults__,
    )

    def _process_config_searchpath(self, config_name: Any, parsed_overrides: Any, repo: Any) -> None:
        given = any(override.get_key_element() == "hydra.searchpath" for override in parsed_overrides)
        if given or config_name is None or _may_say(b"searchpath", repo, config_name):
            super()._process_config_searchpath(config_name, parsed_overrides, repo)

    def _compose_config_from_defaults_list(self, defaults: Any, repo: Any) -> DictConfig:
        if isinstance(defaults, _Stored):
            return defaults.config
        with warnings.catch_warnings(record=True) as caught:
            config = super()._compose_config_from_defaults_list(defaults, repo)
        for item in caught:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
        if isinstance(defaults, _New) and not caught and set(OmegaConf.get_cache(config)) <= {"now"}:
            defaults.store(config, repo)
        return config


def _read(file: Path, repo: CachingConfigRepository) -> tuple[dict[str, Any], DictConfig] | None:
    """Returns choices and composition of an entry; None where there is none, or its files hold something else now."""
    try:
        # Through a link there would be any file of this user, be its content from elsewhere.
        with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as stream:
            facts = os.fstat(stream.fileno())
            if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            digest, data = stream.read(32), stream.read()
        if hashlib.sha256(data).digest() != digest:
            return None
        made_of, choices, config = pickle.loads(data)
        if any(_digest(_content(repo, path)) != digest for path, digest in made_of.items()):
            return None
    except Exception:  # not there, or of classes that are gone: it is composed anew
        return None
    return choices, config


_NOT_PICKLED = (pickle.PicklingError, TypeError, AttributeError)
"""What pickle raises of a class that its module does not have, such as those that hydra-zen makes."""


def _may_say(word: bytes, repo: CachingConfigRepository, path: str) -> bool:
    """Returns whether a word may be in a config; it may where what the config holds cannot be told."""
    try:
        return word in _content(repo, path)
    except _NOT_PICKLED:
        return True


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _content(repo: CachingConfigRepository, path: str) -> bytes:
    """Returns what a config holds, in the first source that has it; where none does, what no config holds."""
    delegate = repo.delegate
    assert isinstance(delegate, ConfigRepository)
    source = delegate._find_object_source(path, ObjectType.CONFIG)
    if source is None:
        return b"\0"
    name = source._normalize_file_name(path)
    if source.scheme() == "file":
        return Path(source.path, name).read_bytes()
    if source.scheme() == "pkg":
        return files(source.path).joinpath(name).read_bytes()
    return pickle.dumps(ConfigStore.instance()._load(name))
