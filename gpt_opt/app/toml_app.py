"""An application as its `gptopt.toml` describes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.app.app import App, Checks, Finder, Source, StartKeys
from gpt_opt.app.code import FOLDER, code_of
from gpt_opt.app.command import parse_command, scalar_text
from gpt_opt.app.keys import RUN_FIELDS, fields
from gpt_opt.app.label import label
from gpt_opt.app.settings import SETTINGS_FILE, AppSettings
from gpt_opt.config.nested import Config, value_at
from gpt_opt.config.yaml_files import ConfigFile
from gpt_opt.errors import ConfigError, Problem
from gpt_opt.records.code import Code
from gpt_opt.records.program import Program
from gpt_opt.records.run_dir import RunFolders, path_part
from gpt_opt.records.run_id import Identity
from gpt_opt.sweep.model import Resources

EXPERIMENTS = ("experiment", "experiments", "exp", "hparams_search")
"""Config groups whose options may be sweeps of their own, as they are usually called."""

SUPERVISOR = "gpt_opt.run.supervise"
"""The module that starts a run of such an application, watches it, and writes its records."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TomlApp(App):
    """An application with a `gptopt.toml`.

    Attributes:
        settings: What that says.
    """

    settings: AppSettings

    @property
    def import_folders(self) -> tuple[Path, ...]:
        """The folder of its script, and that of the repository, which many a script adds itself."""
        return (*([self.settings.script.parent] if self.settings.script else []), self.root)

    def checks(self, source: Source) -> Checks:
        """Returns the checks of its points."""
        return _TomlChecks(self.settings)

    def misfits(self, config: Config, resources: Resources) -> Iterable[Problem]:
        """Yields why a run cannot be made with these resources."""
        if (nodes := resources.nodes_per_run or 1) > 1:
            problem = f"must be 1, since nothing starts this application on several nodes, but is {nodes}"
            yield Problem("resources.nodes_per_run", problem, "leave it out; resources.gpus_per_run takes several GPUs")

    def sweep_hint(self, overrides: str) -> str:
        """Returns the command that runs overrides which are a sweep of their own."""
        script = self.settings.script
        program = f"python -m {self.settings.module}" if script is None else f"python {os.path.relpath(script)}"
        return f"{program} -m {overrides}"

    def notes(self) -> Iterable[str]:
        """Returns that its runs cannot resume, where they cannot."""
        if self.settings.checkpoints is None:
            anew = "this sweep cannot resume: a run that is stopped or killed starts anew in a clean directory"
            yield f"{anew}; [resume] of {SETTINGS_FILE} is where a checkpoint to go on from is named"

    def code(self) -> Code:
        """Returns the code of its runs as it is now."""
        return code_of(self.root)

    def workload(self, config: Config) -> str:
        """Returns what decides how long a run takes: what identifies it, but for its seed and numbers with a point."""
        return self.identity.run_id(_without_floats(config))

    def remaining(self, config: Config, step: int) -> int | None:
        """Returns 1: how many steps a run has is its own affair, so that the whole of it counts as one."""
        return 1

    def step_s(self, summary: Config) -> float:
        """Returns the seconds that a finished run took.

        Raises:
            LookupError: If its summary does not say it.
        """
        return float(summary["time_s"])

    def finder(self) -> Finder:
        """Returns what finds the directories of its runs."""
        return TemplateFinder(self.settings, self.identity)

    def outputs(self, config: Config) -> Path | None:
        """Returns the folder below which the directories of its runs lie."""
        parts = Path(self.settings.run_dir.replace("{app}", path_part(self.name))).parts[:-1]
        fixed = next((index for index, part in enumerate(parts) if fields(part)), len(parts))
        return self.root.joinpath(*parts[:fixed])


def app_of(settings: AppSettings) -> App:
    """Returns the application that a `gptopt.toml` describes.

    Raises:
        ConfigError: If its run directories could not be found again.
    """
    _require_findable(settings)
    defaults, command = settings.defaults, settings.command is not None
    return TomlApp(
        name=settings.name,
        root=settings.root,
        config_dir=settings.config_path if defaults is None else defaults.parent,
        config_name=settings.config_name if defaults is None else defaults.stem,
        identity=Identity(settings.exclude),
        program=_program(settings),
        job_name=settings.script.stem if settings.script else (settings.module or settings.name).rpartition(".")[2],
        version_base="1.3" if command else settings.version_base,
        only_config=defaults is not None and not ConfigFile("", defaults).defaults,
        experiments=() if command else EXPERIMENTS,
        start=None if settings.start is None else StartKeys(settings.start, "", ()),
        planned_apart=True,
        workload_words="config but for the seed and numbers with a point",
        settings=settings,
    )


def _program(settings: AppSettings) -> Program:
    options = {"--settings": f"{{app}}/{SETTINGS_FILE}", "--run-dir": "{run_dir}", "--id": "{run_id}"}
    return Program(
        words=("-m", SUPERVISOR, *(word for pair in options.items() for word in pair), "--"),
        file=SETTINGS_FILE,
        folder=FOLDER,
        on_path=settings.module is not None,
        warm_imports=settings.warm_imports,
        torchrun=False,
        makes_directory=True,
        environment=settings.environment,
        checkpoints=settings.checkpoints or "",
        start=settings.start or "",
    )


def _require_findable(settings: AppSettings) -> None:
    """Refuses a template of run directories by which the directory of a run would not be found by its id."""
    *above, last = Path(settings.run_dir).parts
    before = last.removesuffix("{id}")
    findable = before != last and (not before or before.endswith("-")) and "{id}" not in before
    if not findable or any(name in part for part in above for name in ("{label}", "{id}")):
        problem = "must end in {label}-{id}, NAME-{id} or {id}, with no {label} and no {id} before, so that the id "
        problem += f"finds the directory, but is {settings.run_dir!r}"
        raise ConfigError([Problem(f"{settings.file} [run] dir", problem, 'as dir = "outputs/{app}/{label}-{id}"')])


def _without_floats(node: Mapping[str, Any]) -> dict[str, Any]:
    pairs = {str(key): _without_floats(item) if isinstance(item, dict) else item for key, item in node.items()}
    return {key: item for key, item in pairs.items() if not isinstance(item, float) and key != "seed"}


class TemplateFinder:
    """Finds the directories of runs by a template, listing each folder of them once."""

    def __init__(self, settings: AppSettings, identity: Identity) -> None:
        self._settings, self._identity, self._folders = settings, identity, RunFolders()
        *above, self._last = Path(settings.run_dir).parts
        self._above = str(settings.root.joinpath(*above))
        self._keys = [name for name in fields(settings.run_dir) if name not in RUN_FIELDS]

    def find(self, config: Config, run_id: str, overrides: Sequence[str]) -> tuple[str, bool]:
        """Returns where a run lies, or would lie, and whether it does."""
        values = {name: path_part(scalar_text(value_at(config, name))) for name in self._keys}
        values["app"] = path_part(self._settings.name)
        parent = _filled(self._above, values)
        if (found := self._folders.find(parent, run_id)) is not None:
            return found, True
        values |= {"label": path_part(label(overrides, self._identity)), "id": run_id}
        return os.path.join(parent, _filled(self._last, values)), False


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name in fields(text):
        text = text.replace(f"{{{name}}}", values[name])
    return text


class _TomlChecks(Checks):
    """What a `gptopt.toml` asks of points: the values that its templates take."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings
        self._command = None if settings.command is None else parse_command(settings.command)
        self._keys = [name for name in fields(settings.run_dir) if name not in RUN_FIELDS]

    def wrong(self, config: Config) -> Iterable[Problem]:
        """Returns which values the run directory and the command lack."""
        where = f"{self._settings.file} [run] dir"
        found = []
        for key in self._keys:
            if isinstance(value := value_at(config, key), dict | list):
                found.append(Problem(where, f"must name single values in braces, but {key} is {type(value).__name__}"))
            elif value is None and not _has(config, key):
                fix = f"the keys of the config are {', '.join(map(str, config))}, and those below them"
                found.append(Problem(where, f"must name keys of the config in braces, but there is no {key}", fix))
        return found if self._command is None else [*found, *self._command.problems(config)]


def _has(config: Config, key: str) -> bool:
    above, _, last = key.rpartition(".")
    node = value_at(config, above) if above else config
    return isinstance(node, Mapping) and last in node
