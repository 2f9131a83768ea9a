"""`gptopt.toml`: what gpt-opt must know of an application to compose, start, resume and measure its runs.

The nearest one at or above the working directory says which application is meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_opt.app.keys import LAST_CHECKPOINT, SOURCES
from gpt_opt.app.toml_file import read_tables, resolved, without_suffix
from gpt_opt.records.code import ROOT
from gpt_opt.sweep.overrides import to_override

SETTINGS_FILE = "gptopt.toml"

RUN_DIR = "outputs/{app}/{label}-{id}"
"""Where a run goes unless [run] says otherwise."""

GRACE_S = 30.0
"""Seconds from SIGTERM to SIGKILL unless [run] says otherwise."""


@dataclass(frozen=True)
class MetricsSource:
    """Where the metrics of a run come from.

    Attributes:
        source: One of `SOURCES`.
        files: Glob below the run directory; None for `report`.
        step: Column of the step, for `csv`.
    """

    source: str = "report"
    files: str | None = None
    step: str = "step"


@dataclass(frozen=True)
class AppSettings:
    """What a `gptopt.toml` says; one of script, module and command is given.

    The fields mean what `gpt_opt.app.keys.TABLES` says of the keys. Every path is absolute.

    Attributes:
        root: Folder of the file; paths are below it unless the file says otherwise.
        config_path: None for a command, and where the application registers all its configs.
        config_name: Without `.yaml`.
        run_dir: `dir` of [run], relative to `root` unless absolute.
        checkpoints: Of [resume]; None if the application cannot go on from one.
        resume_overrides: `overrides` of [resume].
        start: Of [stages]; without [resume] it is given the directory of the run that is started from. None if no stage
            can start from another.
    """

    name: str
    root: Path
    script: Path | None = None
    module: str | None = None
    command: str | None = None
    config_path: Path | None = None
    config_name: str = "config"
    version_base: str | None = None
    defaults: Path | None = None
    registers: bool = False
    environment: tuple[str, ...] = ()
    warm_imports: tuple[str, ...] = ()
    exclude: frozenset[str] = frozenset({"hydra"})
    run_dir: str = RUN_DIR
    grace_s: float = GRACE_S
    checkpoints: str | None = None
    resume_overrides: tuple[str, ...] = ()
    start: str | None = None
    metrics: MetricsSource = field(default_factory=MetricsSource)

    @property
    def file(self) -> Path:
        """The `gptopt.toml` itself."""
        return self.root / SETTINGS_FILE

    def resume_words(self, checkpoint: Path) -> list[str]:
        """Returns `resume_overrides` with a checkpoint, which Hydra's grammar reads as it is, whatever its path has."""
        path = str(checkpoint.absolute())
        if self.command is not None:
            return [item.replace(LAST_CHECKPOINT, path) for item in self.resume_overrides]
        return [_with_path(item, path) if LAST_CHECKPOINT in item else item for item in self.resume_overrides]


def _with_path(override: str, path: str) -> str:
    key, _, value = override.partition("=")
    if value.startswith(("[", "{")) and value != LAST_CHECKPOINT:
        return override.replace(LAST_CHECKPOINT, to_override("_", path).removeprefix("_="))
    if value[:1] in ("'", '"') and value[-1:] == value[:1]:
        value = value[1:-1]
    return to_override(key, value.replace(LAST_CHECKPOINT, path))


def find_settings(start: Path) -> AppSettings | None:
    """Returns the settings in the nearest `gptopt.toml` at or above a folder; None if there is none.

    A clone of gpt-opt inside the repository of an application stays itself: nothing above it is looked at.

    Raises:
        ConfigError: If that file is wrong.
    """
    folder = start.absolute()
    for above in (folder, *folder.parents):
        if (above / SETTINGS_FILE).is_file():
            return read_settings(above / SETTINGS_FILE)
        if above == ROOT:
            break
    return None


def read_settings(file: Path) -> AppSettings:
    """Reads a `gptopt.toml`.

    Raises:
        ConfigError: If it cannot be read or is wrong, with every mistake in it.
    """
    file = file.absolute()
    tables = read_tables(file)
    app, run, resume, metrics = (tables[name] for name in ("app", "run", "resume", "metrics"))
    script, config_path, defaults = (
        resolved(file.parent, app[key]) if key in app else None for key in ("script", "config_path", "defaults")
    )
    source = metrics.get("source", "report")
    return AppSettings(
        name=app.get("name") or _default_name(file.parent, app),
        root=file.parent,
        script=script,
        module=app.get("module"),
        command=app.get("command"),
        config_path=config_path,
        config_name=without_suffix(app.get("config_name", "config")),
        version_base=app.get("version_base"),
        defaults=defaults,
        registers=app.get("registers", False),
        environment=tuple(app.get("environment", ())),
        warm_imports=tuple(app.get("warm_imports", ())),
        exclude=frozenset(tables["identity"].get("exclude", ["hydra"])),
        run_dir=os.path.expanduser(run.get("dir", RUN_DIR)),
        grace_s=float(run.get("grace_s", GRACE_S)),
        checkpoints=resume.get("checkpoints"),
        resume_overrides=tuple(resume.get("overrides", ())),
        start=tables["stages"].get("start"),
        metrics=MetricsSource(source, metrics.get("files", SOURCES[source]), metrics.get("step", "step")),
    )


def _default_name(root: Path, app: Mapping[str, Any]) -> str:
    program = Path(app["script"]).stem if "script" in app else app.get("module", "").rpartition(".")[2]
    return plain_name(program or root.name)


def plain_name(text: str) -> str:
    """Returns the name of an application that is like a text: of letters, digits and `. _ -`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "app"
