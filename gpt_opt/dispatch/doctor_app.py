"""What of the `gptopt.toml` of this folder works: the doctor's checks of an application."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from gpt_opt.app.command import parse_command
from gpt_opt.app.defaults import compose_defaults
from gpt_opt.app.discover import Found, app_of_file
from gpt_opt.app.keys import RUN_FIELDS, fields
from gpt_opt.app.look_at_code import CSV_FILE
from gpt_opt.app.settings import SETTINGS_FILE, AppSettings, find_settings
from gpt_opt.config.nested import flat_values
from gpt_opt.dispatch.doctor import Check
from gpt_opt.errors import ConfigError
from gpt_opt.records.code import git
from gpt_opt.run.same_config import AnyTypes

_TIMEOUT_S = 300.0
_NO_ERROR = re.compile(r"HYDRA_FULL_ERROR|:\d+: \w*Warning: ")
_CHECKPOINT = Path("/lr=0.1/last")
"""In place of a checkpoint, to see that the config takes one."""


def app_checks(folder: Path, overrides: Sequence[str] = ()) -> list[Check]:
    """Looks at the application of a folder, composed with `overrides`; without a `gptopt.toml` there is none."""
    try:
        settings = find_settings(folder)
        if settings is None:
            return []
        what = Check(SETTINGS_FILE, True, f"{settings.file}: the application {settings.name}")
        checks = (_command if settings.command is not None else _hydra)(settings, overrides)
        return [what, *_copied(settings), *checks]
    except ConfigError as error:
        return [
            Check(SETTINGS_FILE, False, f"{item.where}: {item.message}", item.fix or "correct it")
            for item in error.problems
        ]


def _copied(settings: AppSettings) -> Iterator[Check]:
    """Yields that runs have a part of the repository alone, where the file is in a folder of it."""
    top = (git(settings.root, "rev-parse", "--show-toplevel") or "").strip()
    if top and os.path.realpath(top) != os.path.realpath(settings.root):
        advice = f"if it imports from what lies above, have {SETTINGS_FILE} in {top}, with paths from there"
        yield Check("code", None, f"runs start from a copy of {settings.root}, which has no more of {top}", advice)


# -- applications of Hydra --------------------------------------------------------------------------------------------


def _hydra(settings: AppSettings, overrides: Sequence[str]) -> Iterator[Check]:
    app = _found(settings)
    composed = _compose(settings, overrides)
    yield _composes(settings, composed)
    if app is not None and app.registers and not settings.registers:
        yield Check("registers", False, str(app.registers[0]), "write registers = true below [app]")
    if composed.config is not None:
        yield from _keys(settings, composed.config)
    yield _resume(settings, composed, overrides)
    yield _metrics(settings, app)
    yield from _warm(settings, app)


def _found(settings: AppSettings) -> Found | None:
    """Returns what the code says, None where the file of a module is not below the root."""
    if settings.script is not None:
        return app_of_file(settings.root, settings.script)
    parts = str(settings.module).split(".")
    bases = (settings.root.joinpath(*above, *parts) for above in ((), ("src",)))
    files = (file for base in bases for file in (base.with_suffix(".py"), base / "__main__.py"))
    return next((app_of_file(settings.root, file) for file in files if file.is_file()), None)


@dataclass(frozen=True)
class _Composed:
    """What Hydra itself made of a config: the config, or what it said instead."""

    config: dict[str, Any] | None
    said: str
    seconds: float


def _compose(settings: AppSettings, overrides: Sequence[str]) -> _Composed:
    """Returns what `--cfg job` of the application prints, which is Hydra's own composition in a process of its own."""
    program = [str(settings.script)] if settings.script is not None else ["-m", str(settings.module)]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *program, *overrides, "--cfg", "job"],
            cwd=settings.root,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return _Composed(None, f"no config after {_TIMEOUT_S:.0f} s", _TIMEOUT_S)
    seconds = time.perf_counter() - start
    config = _config_in(done.stdout) if done.returncode == 0 else None
    return _Composed(config, _last_words(done.stderr) or f"exit code {done.returncode}", seconds)


def _last_words(text: str) -> str:
    """Returns what an error ends with, without the frames of its traceback and Hydra's advice on them."""
    lines = [line for line in text.splitlines() if line.strip() and not _NO_ERROR.search(line)]
    if any(line.startswith("Traceback ") for line in lines):
        frames = [place for place, line in enumerate(lines) if line.startswith("  ")]
        lines = lines[frames[-1] + 1 :]
    return " ".join([line for line in lines if not line.startswith("  ")][:3])


def _config_in(text: str) -> dict[str, Any] | None:
    """Returns the config at the end of an output, in front of which the application may have printed something."""
    lines = text.splitlines()
    starts = (place for place, line in enumerate(lines) if re.match(r"[\w'\"]+:|\{\}$", line))
    for start in starts:
        try:
            config = yaml.load("\n".join(lines[start:]), AnyTypes)
        except yaml.YAMLError:
            continue
        if isinstance(config, dict):
            return config
    return None


def _composes(settings: AppSettings, composed: _Composed) -> Check:
    script = os.path.relpath(settings.script, settings.root) if settings.script else ""
    program = f"python {script}" if script else f"python -m {settings.module}"
    if composed.config is None:
        advice = f"cd {settings.root} && {program} --cfg job must print it; add here the overrides it needs"
        if "ModuleNotFoundError" in composed.said:
            advice = (
                f"install what the application needs beside gptopt, into {sys.prefix}; pip install -e . where its own "
            )
            advice += "package is not found"
        return Check("config", False, composed.said, advice)
    keys = len(flat_values(composed.config))
    number = "1 key" if keys == 1 else f"{keys} keys"
    return Check("config", True, f"{number}, composed by Hydra in {composed.seconds:.1f} s")


def _keys(settings: AppSettings, config: dict[str, Any]) -> Iterator[Check]:
    """Yields the keys that the file names and the config does not have."""
    flat = flat_values(config)
    there = {".".join(key.split(".")[:end]) for key in flat for end in range(1, key.count(".") + 2)}
    if missing := sorted(settings.exclude - there - {"hydra"}):
        advice = "that is fine for keys that other options bring; correct the others in exclude below [identity]"
        yield Check("identity", None, f"no keys of this config: {', '.join(missing)}", advice)
    unknown = [name for name in fields(settings.run_dir) if name not in RUN_FIELDS and name not in flat]
    if unknown:
        advice = f"dir below [run] can have {', '.join(RUN_FIELDS)} and values of the config in braces"
        yield Check("run directory", False, f"no values of this config: {', '.join(unknown)}", advice)
    if settings.start is not None and settings.start not in flat:
        advice = "start below [stages] is the key that takes a checkpoint to start from, null otherwise"
        yield Check("stages", False, f"no key of this config: {settings.start}", advice)


def _resume(settings: AppSettings, composed: _Composed, overrides: Sequence[str]) -> Check:
    if settings.checkpoints is None:
        advice = "if it can go on from a checkpoint, say so in a table [resume]"
        return Check("resume", None, "no [resume]: a run that is stopped starts anew in a clean directory", advice)
    given = settings.resume_words(_CHECKPOINT)
    if composed.config is not None and given:
        resumed = _compose(settings, [*overrides, *given])
        if resumed.config is None:
            advice = "overrides below [resume] must be ones that it takes; + adds a key that the config lacks"
            return Check("resume", False, f"{' '.join(given)}: {resumed.said}", advice)
    how = " ".join(settings.resume_overrides) or "the application finds it by itself"
    return Check("resume", True, f"newest of {settings.checkpoints}: {how}")


def _metrics(settings: AppSettings, app: Found | None) -> Check:
    source = settings.metrics.source
    by_code = {} if app is None else dict(app.code.logs)
    logged = [] if app is None else [item for item in app.config.logs if item.source == source]
    found = f"{source}{f', {settings.metrics.files}' if settings.metrics.files else ''}"
    if logged:
        needs = f"; give its runs {logged[0].needs}" if logged[0].needs else ""
        return Check("metrics", True, f"{found}: {logged[0].where}{needs}")
    if evidence := by_code.get(source) or (source == "csv" and by_code.get(CSV_FILE)):
        return Check("metrics", True, f"{found}: {evidence}")
    advice = "call gpt_opt.report(step=step, loss=loss) where it has them, or name another source below [metrics]"
    return Check("metrics", None, f"{found}, but nothing that writes it is seen in the code", advice)


def _warm(settings: AppSettings, app: Found | None) -> Iterator[Check]:
    missing = [name for name in settings.warm_imports if not _is_there(name)]
    if missing:
        advice = "install them in this Python, or take them out of warm_imports"
        yield Check("warm imports", False, f"not found: {', '.join(missing)}", advice)
    if settings.warm_imports and app is not None and app.code.keeps_from_forking:
        advice = "write warm_imports = []: a fork cannot use a device that its parent has started"
        yield Check("warm imports", False, str(app.code.keeps_from_forking[0]), advice)


def _is_there(name: str) -> bool:
    try:
        return find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


# -- commands ---------------------------------------------------------------------------------------------------------


def _command(settings: AppSettings, overrides: Sequence[str]) -> Iterator[Check]:
    command = parse_command(str(settings.command))
    program = command.parts[0].words[0].texts[0]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])  # as a run has it
    if shutil.which(program, path=path) is None and not (settings.root / program).is_file():
        yield Check("command", False, f"{program} is not on the path", "correct the first word, or load what has it")
    texts = [word.texts[0] for part in command.parts for word in part.words if not word.keys]
    for text in texts:
        if text.endswith(".py") and not text.startswith("-") and not (settings.root / text).is_file():
            yield Check("command", False, f"{settings.root} has no {text}", "correct the path, relative to this file")
    try:
        config = compose_defaults(settings, overrides)
    except Exception as error:  # whatever Hydra says of the file
        first = next(iter(str(error).splitlines()), type(error).__name__)
        yield Check("defaults", False, first, f"correct {settings.defaults}")
        return
    for problem in command.unknown(config):
        yield Check("command", False, f"{problem.where}: {problem.message}", problem.fix)
    parameters = flat_values(config)
    if unused := sorted(parameters.keys() - command.keys):
        advice = "give each a place in the command, as --name {name}, unless others refer to it"
        yield Check("defaults", None, f"keys that the command has no place for: {', '.join(unused)}", advice)
    yield Check("defaults", True, f"{len(parameters)} parameters, {len(command.keys)} of them in the command")
    yield from _keys(settings, config)
    yield _resume(settings, _Composed(None, "", 0.0), overrides)
