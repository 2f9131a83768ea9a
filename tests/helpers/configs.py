"""Configs of hydra_conf/ as a run has them: composed by what composes a sweep, or by Hydra with each file read once.

Hydra takes a third of a second for a config. `tests/plan` shows that the Composer gives what Hydra gives.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from gpt_opt.config.files import with_real_paths
from gpt_opt.config.schema import register
from gpt_opt.plan.compose.composer import Composer
from gpt_opt.plan.compose.hydra import Configs, HydraEngine
from gpt_opt.run.resolvers import plain_config, register_resolvers
from tests.conftest import CONFIG_DIR


@cache
def _composer() -> Composer:
    register()
    register_resolvers()
    return Composer(CONFIG_DIR)


@cache
def _engine() -> HydraEngine:
    register()
    register_resolvers()
    return HydraEngine(Configs(CONFIG_DIR))


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the resolved config of a run.

    Raises:
        Exception: What Hydra raises for these overrides.
        ConfigError: If mandatory values are missing.
    """
    with _same_environment():
        result = _composer().compose(overrides)
    if result.missing:
        return by_hydra(overrides)
    return with_real_paths(copy.deepcopy(result.config))


def by_hydra(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the resolved config as Hydra composes it, and raises the same."""
    return plain_config(_engine().load(overrides))


@contextmanager
def _same_environment() -> Iterator[None]:
    """Hides what pytest changes for every test: a Composer starts anew where the environment is another."""
    test = os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        yield
    finally:
        if test is not None:
            os.environ["PYTEST_CURRENT_TEST"] = test
