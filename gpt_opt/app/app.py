"""What plan, dispatch and run know an application by; whatever else it is, they do not ask.

`App` as it stands is one of which nothing more is known. gpt-opt's own training is another (`gpt_opt.own_app`), with
checks of its own, and so is one with a `gptopt.toml` (`gpt_opt.app.toml_app`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gpt_opt.config.nested import Config
from gpt_opt.config.remember import Remembered
from gpt_opt.errors import Problem
from gpt_opt.records.code import Code, this_code
from gpt_opt.records.metrics import KnownMetrics
from gpt_opt.records.program import Program
from gpt_opt.records.run_id import Identity
from gpt_opt.records.run_reference import RunReference
from gpt_opt.sweep.model import Resources


class Source(Protocol):
    """The configs of an application, as Hydra searches them."""

    def compose(self, overrides: Sequence[str]) -> Any:
        """Returns the config of some overrides."""

    def is_group(self, text: str) -> bool:
        """Returns whether an override string sets a config group."""


class Finder(Protocol):
    """Finds the directories of runs within one request; makes none."""

    def find(self, config: Config, run_id: str, overrides: Sequence[str]) -> tuple[str, bool]:
        """Returns where a run lies, or would lie, and whether it does."""


class Checks:
    """What an application asks of the points of a request, beside what Hydra does; as it stands, nothing."""

    def begin(self, planned: Mapping[str, Config], memo: Remembered) -> None:
        """Begins with the points of a request.

        Args:
            planned: The configs of runs that will be made before them, by id.
            memo: What was found about the points of the request.
        """

    def added(self, overrides: Sequence[str], config: Config) -> list[Problem]:
        """Returns the problems of the keys that `+key=value` adds to a point."""
        return []

    def ignored(self, overrides: Sequence[str], config: Config) -> Iterable[Problem]:
        """Returns the problems of overrides that Hydra takes but that would change nothing."""
        return ()

    def wrong(self, config: Config) -> Iterable[Problem]:
        """Returns what is wrong with a resolved config that has no missing keys."""
        return ()


@dataclass(frozen=True)
class StartKeys:
    """The keys of a config by which a run starts from another one.

    Attributes:
        archive: Names the weights to start from.
        resume: Names the run to go on with; "" if none can.
        inherited: Keys, with all below them, that a run takes over from the one that it starts from; of those below
            the first, `archive` only where it goes on with the other's training.
    """

    archive: str
    resume: str
    inherited: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class App:
    """An application.

    Attributes:
        name: What people call it.
        root: Folder of its repository.
        config_dir: Folder of its configs; None where it registers all of them.
        config_name: The primary config, without `.yaml`.
        identity: What of a config identifies a run.
        program: How a run is started.
        job_name: Hydra's name of it, `hydra.job.name`.
        version_base: Of Hydra, which composes its configs.
        further: Folder of more config groups, as `--config-dir` gives one.
        only_config: Whether the primary config is all there is: no folder beside it is a config group.
        pure_resolvers: Its own resolvers that return the same for the same arguments, config and environment.
        needed: Top-level keys that every run reads, so that none may delete them.
        experiments: Config groups whose options may be sweeps of their own.
        resources: Top-level key of the config that says what a run needs from the cluster; None for none.
        start: The keys by which a run starts from another one; None if it cannot.
        planned_apart: Whether its sweeps are planned in a process of their own, since nothing of it may reach others.
        workload_words: What makes up the workload of a run, see `workload`, for people.
        hub_names: Config groups for which the name of something on the hub may be meant, each with what names it.
    """

    name: str
    root: Path
    config_dir: Path | None
    config_name: str
    identity: Identity
    program: Program
    job_name: str = "main"
    version_base: str | None = "1.3"
    further: Path | None = None
    only_config: bool = False
    pure_resolvers: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()
    experiments: tuple[str, ...] = ()
    resources: str | None = None
    start: StartKeys | None = None
    planned_apart: bool = False
    workload_words: str = "its config"
    hub_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def import_folders(self) -> tuple[Path, ...]:
        """Folders that a run has on its path before all others."""
        return (self.root,)

    def register(self) -> None:
        """Makes what its configs are composed of known to Hydra: schemas and resolvers."""

    def checks(self, source: Source) -> Checks:
        """Returns the checks of its points, which are of these configs."""
        return Checks()

    def normalized(self, config: dict[str, Any], memo: Remembered | None = None) -> dict[str, Any]:
        """Returns a resolved config with one spelling of each value, as it identifies a run.

        Args:
            config: The config; it is not changed.
            memo: What was found for other configs of the same request.
        """
        return config

    def references(self, config: Config, memo: Remembered) -> Iterator[tuple[str, RunReference]]:
        """Yields the keys of a config that name a run to start from, with that run."""
        yield from ()

    def not_in_sweeps(self, config: Config) -> Iterator[Problem]:
        """Yields what a config may say of a single run, but not of one of a sweep."""
        yield from ()

    def misfits(self, config: Config, resources: Resources) -> Iterable[Problem]:
        """Yields why a run cannot be made with these resources."""
        yield from ()

    def sweep_hint(self, overrides: str) -> str:
        """Returns the command that runs overrides which are a sweep of their own."""
        return ""

    def file_hint(self, file: str) -> str:
        """Returns what to do with a YAML file that is given where an override is expected; "" if nothing is known."""
        return ""

    def inputs(self, config: Config, memo: Remembered) -> dict[str, dict[str, str]]:
        """Returns files that a run reads, by what names them: `path` and `sha256` of each."""
        return {}

    def notes(self) -> Iterable[str]:
        """Returns what a plan says of every sweep of it."""
        return ()

    def metrics(self, config: Config) -> KnownMetrics:
        """Returns what is known of the metrics of a run."""
        return KnownMetrics()

    def code(self) -> Code:
        """Returns the code of its runs as it is now."""
        return this_code()

    def workload(self, config: Config) -> str:
        """Returns what decides how long a step of a run takes; runs that are alike in it take alike."""
        return self.identity.run_id(config)

    def steps(self, config: Config) -> tuple[int | None, int | None]:
        """Returns the steps of a run and those between two of its checkpoints; None for what is not known."""
        return None, None

    def remaining(self, config: Config, step: int) -> int | None:
        """Returns the steps of a run that are still to do after `step`; None where they are not known."""
        return None

    def step_s(self, summary: Config) -> float:
        """Returns the seconds that a step of a finished run took.

        Raises:
            LookupError: If its summary does not say it.
        """
        return float(summary["time_s"]) / int(summary["step"])

    def finder(self) -> Finder:
        """Returns what finds the directories of its runs."""
        raise NotImplementedError

    def outputs(self, config: Config) -> Path | None:
        """Returns the folder below which the directories of its runs lie; None where each start makes a new one."""
        raise NotImplementedError
