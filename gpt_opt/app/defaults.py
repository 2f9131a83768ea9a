"""The parameters of a command: its YAML of defaults and the overrides of a run -> plain values, with Hydra's grammar.

The file can have a defaults list and interpolations, as the config of an application of Hydra.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import OmegaConf, open_dict

from gpt_opt.app.settings import AppSettings
from gpt_opt.config.yaml_files import ConfigFile

_VERSION_BASE = "1.3"


class WithoutGroups(ConfigRepository):
    """A primary config alone: a folder beside it that has the name of a key is no config group."""

    def group_exists(self, config_path: str) -> bool:
        """Returns whether a group of Hydra's own exists."""
        return config_path.startswith("hydra") and super().group_exists(config_path)

    def get_group_options(self, group_name: str, *rest: Any, **named: Any) -> list[str]:
        """Returns the options of a group of Hydra's own."""
        return super().get_group_options(group_name, *rest, **named) if group_name.startswith("hydra") else []


@contextmanager
def composing_as(version_base: str | None) -> Iterator[None]:
    """Composes with the version_base of an application, and gives the process back the one that it had."""
    base = VersionBase.instance()
    before = base.version_base
    setbase(version_base)
    try:
        yield
    finally:
        base.version_base = before


def compose_defaults(settings: AppSettings, overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the parameters of a run of a command, resolved, as plain containers; what is missing is "???".

    Nothing of Hydra's state in this process changes.

    Raises:
        Exception: Whatever Hydra or OmegaConf raises for these overrides.
    """
    assert settings.defaults is not None
    if not all(OmegaConf.has_resolver(name) for name in ("now", "hydra", "python_version")):
        setup_globals()
    with composing_as(_VERSION_BASE):
        path = create_config_search_path(str(settings.defaults.parent.resolve()))
        loader = ConfigLoaderImpl(path)
        if not ConfigFile("", settings.defaults).defaults:
            loader.repository = WithoutGroups(path)
        config = loader.load_configuration(settings.defaults.stem, list(overrides), RunMode.RUN, from_shell=False)
    with open_dict(config):
        del config["hydra"]
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False, enum_to_str=True)
    return cast("dict[str, Any]", plain)
