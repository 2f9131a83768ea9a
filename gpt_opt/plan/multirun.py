"""What a command line asks Hydra for: one run or many, and which points a sweeper makes of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from gpt_opt.config.explain import missing_keys
from gpt_opt.errors import Problem
from gpt_opt.plan.compose.composer import Composed
from gpt_opt.plan.compose.hydra import load, plain
from gpt_opt.run.resolvers import without_hydra

OPTUNA = "hydra_plugins.hydra_optuna_sweeper"
INSTALL_OPTUNA = "pip install 'gpt-opt[optuna]'"


class CommandLine:
    """The overrides of a command line, read as Hydra and its sweeper read them.

    Args:
        loader: Hydra's loader of the config folder.
        config_name: Name of the root config.
        overrides: What the command line says after its options.
        job_name: Hydra's name of the program.
    """

    def __init__(self, loader: ConfigLoaderImpl, config_name: str, overrides: Sequence[str], job_name: str) -> None:
        self._loader, self._name, self._job_name = loader, config_name, job_name
        self.overrides = list(overrides)

    @cached_property
    def config(self) -> DictConfig | None:
        """What Hydra composes for a run of these overrides, without the sweeps; None where it cannot."""
        JobRuntime.instance().set("name", self._job_name)
        with suppress(Exception):  # the points will say what is wrong
            return load(self._loader, self._name, self.overrides, validate_sweep_overrides=False)
        return None

    def run(self) -> Composed | None:
        """Returns the one run that the overrides ask for; None where they ask for several, or Hydra refuses them."""
        if self.config is None or any(override.is_sweep_override() for override in self._parse(self.overrides)):
            return None
        with suppress(Exception), without_hydra(self.config) as own:
            config = plain(own)
            return Composed(tuple(self.overrides), config, tuple(sorted(missing_keys(config))))
        return None

    @cached_property
    def hydra(self) -> DictConfig | None:
        """Hydra's own node; None where the config cannot be composed, so that nothing will run."""
        if self.config is not None:
            return cast(DictConfig, self.config.hydra)
        try:
            config = self._loader.load_configuration(
                self._name, self.overrides, run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False
            )
        except Exception:  # as Hydra itself does where it asks for the mode; the points will say what is wrong
            return None
        return cast(DictConfig, config.hydra)

    @property
    def chooses_multirun(self) -> bool:
        """Whether `hydra.mode` asks for a multirun: on the command line, in an experiment or in the config."""
        if self.hydra is None:
            return any(text.lstrip("+") in ("hydra.mode=MULTIRUN", "hydra.mode=2") for text in self.overrides)
        return bool(self.hydra.mode is RunMode.MULTIRUN)

    @cached_property
    def sweeper(self) -> str:
        """The class that makes the points of a multirun."""
        return str(self.hydra.sweeper._target_) if self.hydra is not None else ""

    @property
    def starts_runs_here(self) -> bool:
        """Whether the runs of a multirun are this process itself: its launcher is Hydra's basic one."""
        return self.hydra is None or str(self.hydra.launcher._target_).endswith(".BasicLauncher")

    @property
    def reads_resources(self) -> bool:
        """Whether the launcher of a multirun gives runs the resources of the config."""
        return self.hydra is not None and "disbatch" in str(self.hydra.launcher._target_).lower()

    @property
    def is_enumerated(self) -> bool:
        """Whether the points are known before the first run: they are those of Hydra's basic sweeper."""
        return self.sweeper in ("", f"{BasicSweeper.__module__}.{BasicSweeper.__name__}")

    @property
    def _is_basic(self) -> bool:
        """Whether the sweeper is surely the basic one, also where the config cannot be composed."""
        chosen = any(text.lstrip("+").startswith(("hydra/sweeper=", "exp=")) for text in self.overrides)
        return self.is_enumerated and (self.hydra is not None or not chosen)

    @property
    def knows_sampled_keys(self) -> bool:
        """Whether every key that the sweeper will give is known here."""
        if self.is_enumerated:
            return True
        return self.sweeper.startswith(OPTUNA) and not (self.hydra and self.hydra.sweeper.custom_search_space)

    @cached_property
    def texts(self) -> list[str]:
        """What the sweeper reads: its parameters in the config, then the command line."""
        sweeper: Mapping[str, Any] = {} if self.hydra is None else self.hydra.sweeper
        params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
        return [*params, *_searched(sweeper.get("search_space") or {}), *self.overrides]

    @cached_property
    def _parsed(self) -> list[Override]:
        return self._parse(self.texts)

    def _parse(self, texts: list[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self._loader).parse_overrides(texts)

    def points(self) -> list[list[str]]:
        """Returns the override list of every point that the basic sweeper makes.

        For a sweeper that draws its points: points that have each alternative, or both ends of each range, once.

        Raises:
            HydraException: If an override cannot be parsed.
        """
        axes: dict[str, list[str]] = {}
        for override in self._parsed:
            key = override.get_key_element()
            with suppress(HydraException, ValueError):  # `problems` has it
                axes[key] = [f"{key}={value}" for value in self._values(override)]
        if self.is_enumerated:
            return [list(point) for point in itertools.product(*axes.values())]
        first = {key: texts[0] for key, texts in axes.items() if texts}
        others = [{**first, key: text} for key, texts in axes.items() for text in texts[1:]]
        return [list(point.values()) for point in (first, *others)]

    def _values(self, override: Override) -> list[Any]:
        if not override.is_sweep_override():
            return [override.get_value_element_as_str()]
        value = override.value()
        if isinstance(value, IntervalSweep):
            return [value.start, value.end]
        found = list(override.sweep_string_iterator())
        return [*found, value.stop] if isinstance(value, RangeSweep) and not self.is_enumerated else found

    def problems(self) -> list[Problem]:
        """Returns what the sweeper cannot make points of."""
        try:
            return [problem for override in self._parsed for problem in self._unusable(override)]
        except HydraException:
            return []  # the points themselves will say what cannot be parsed

    def _unusable(self, override: Override) -> Iterator[Problem]:
        key, value = override.get_key_element(), (override.input_line or "").partition("=")[2]
        try:
            none = not self._values(override)
        except (HydraException, ValueError) as error:
            yield Problem(key, f"{value} cannot be enumerated: {error}", f"write the values: {key}=a,b,c")
            return
        if none:
            yield Problem(key, f"must give at least one value, but {value} gives none")
        elif self._is_basic and isinstance(override.value(), IntervalSweep):
            problem = f"{value} is for a sweeper that draws values, but Hydra's basic one takes lists and ranges alone"
            yield Problem(key, problem, f"add hydra/sweeper=optuna ({INSTALL_OPTUNA}), or write values: {key}=0.1,0.2")


def _searched(space: Mapping[str, Any]) -> Iterator[str]:
    """Yields the old form of Optuna's parameters, `search_space`, as overrides."""
    for key, given in space.items():
        if given.get("choices") is not None:
            yield f"{key}=choice({','.join(map(str, given['choices']))})"
        else:
            yield f"{key}=interval({given['low']},{given['high']})"
