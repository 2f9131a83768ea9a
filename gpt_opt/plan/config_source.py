"""A config folder as Hydra searches it: its groups and options, and the config that override strings give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from gpt_opt.app.app import App
from gpt_opt.config.explain import keys_like
from gpt_opt.plan.compose.hydra import Configs, load, loader
from gpt_opt.sweep.overrides import target


def key_of(text: str) -> str:
    """Returns the key, or the config group, that an override string sets."""
    return target(text.partition("=")[0]).partition("@")[0]


class ConfigSource:
    """The configs of an application.

    Args:
        app: The application.

    Attributes:
        app: `app`.
        configs: Where they are.
        loader: Hydra's loader of them.
    """

    def __init__(self, app: App) -> None:
        self.app, self.configs = app, Configs.of(app)
        self.loader = loader(self.configs)
        self._options: dict[str, list[str]] = {}
        self._choices: dict[tuple[str, ...], dict[str, str]] = {}

    def options(self, group: str) -> list[str]:
        """Returns the options of a group; none of what is no group."""
        if group not in self._options:
            try:
                self._options[group] = self.loader.get_group_options(group, ObjectType.CONFIG)
            except OSError:  # too long for a folder's name
                self._options[group] = []
        return self._options[group]

    def is_group(self, text: str) -> bool:
        """Returns whether an override string sets a group."""
        return bool(self.options(key_of(text)))

    def exists(self, text: str) -> bool:
        """Returns whether an override string chooses an option that there is."""
        return text.partition("=")[2] in self.options(key_of(text))

    def names(self, overrides: Iterable[str]) -> list[str]:
        """Returns the options that overrides choose, as defaults lists name them."""
        return [f"{key_of(text)}/{text.partition('=')[2]}" for text in overrides if self.exists(text)]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Returns the config of some overrides, Hydra's own node included.

        Raises:
            Exception: Whatever Hydra or OmegaConf raises.
        """
        return load(self.loader, self.configs.name, overrides, from_shell=False)

    def choices(self, overrides: Iterable[str]) -> dict[str, str]:
        """Returns the option of each group; points with the same group choices share one composition."""
        groups = tuple(text for text in overrides if self.is_group(text))
        if groups not in self._choices:
            chosen = OmegaConf.to_container(self.compose(groups).hydra.runtime.choices)
            self._choices[groups] = cast("dict[str, str]", chosen)
        return self._choices[groups]

    def valid_keys(self, overrides: Sequence[str]) -> list[str]:
        """Returns the keys of the config with these overrides, without Hydra's own; none where there is no config."""
        try:
            config = self.compose(overrides)
        except Exception:  # told elsewhere
            return []
        return keys_like(config, "")
