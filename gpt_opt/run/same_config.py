"""Whether an application was started with the config that was planned for its run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import yaml

from gpt_opt.app.settings import AppSettings
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.records.io import changed_ns
from gpt_opt.records.planned_configs import CHANGED, changes_text
from gpt_opt.records.run_id import Identity

_SETTLED_S = 1.0
"""How old a file is that nothing writes any more."""


class AnyTypes(yaml.SafeLoader):
    """Reads what OmegaConf writes; of types that YAML does not know, as paths, what they are made of."""


def _made_of(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    return loader.construct_sequence(node, True) if isinstance(node, yaml.SequenceNode) else None


AnyTypes.add_multi_constructor("", _made_of)


class HydraConfig:
    """The config that Hydra writes as an application starts.

    Args:
        file: It, `.hydra/config.yaml`; that of an attempt before may be there.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._before = file, changed_ns(file)

    def read(self, ended: bool) -> dict[str, Any] | None:
        """Returns it, with its interpolations as text, once; None before it is written, and where it says nothing."""
        written = changed_ns(self._file)
        if written == self._before or not (ended or time.time() - written / 1e9 > _SETTLED_S):
            return None
        self._before = written
        try:
            found = yaml.load(self._file.read_text(encoding="utf-8"), AnyTypes)
        except (OSError, ValueError, yaml.YAMLError):
            return None
        return found if isinstance(found, dict) else None


def require_same(
    settings: AppSettings, planned: Mapping[str, Any], started: Mapping[str, Any], run_id: str, repository: Path
) -> None:
    """Refuses a config that differs from the planned one in values that identify the run and can be compared.

    Args:
        settings: Of the application, whose root is its code, perhaps that of a snapshot.
        planned: The planned config, resolved.
        started: The config that it is started with; values with interpolations are not compared.
        run_id: Of the planned config.
        repository: Where it was planned. What is its path there is in the code's folder now, where a program makes
            paths of `__file__`.

    Raises:
        ConfigError: If one differs.
    """
    given_by_us: Set[str] = {item.lstrip("+").partition("=")[0] for item in settings.resume_overrides}
    whole = Identity(settings.exclude | given_by_us | {settings.start or "hydra"})
    moved = {str(place): str(repository) for place in (settings.root.absolute(), os.path.realpath(settings.root))}
    pairs = {key: pair for key, pair in whole.differences(planned, started).items() if _is_other(*pair, moved)}
    if not pairs:
        return
    fix = "put it back and gptopt retry the run, or submit the sweep file again; a value that depends on the machine "
    fix += "and changes no result belongs into exclude of [identity]"
    raise ConfigError([Problem(f"run {run_id}", f"{CHANGED}, but {changes_text(pairs)}", fix)])


def _is_other(planned: Any, started: Any, moved: Mapping[str, str]) -> bool:
    """Returns whether two values that are written differently are of one kind, so that they are different values."""
    if isinstance(planned, str) and isinstance(started, str):
        for here, there in moved.items():
            started = started.replace(here, there)
        is_text = not any(sign in text for text in (planned, started) for sign in ("${", "???", "(absent)"))
        return is_text and not planned.endswith(started)  # Color.RED of an enum is RED in the file
    numbers = (int, float)
    kinds = {
        bool if isinstance(item, bool) else numbers if isinstance(item, numbers) else None
        for item in (planned, started)
    }
    return planned != started and len(kinds) == 1 and None not in kinds
