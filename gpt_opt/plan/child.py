"""The process in which the sweeps of an application are planned: `python -m gpt_opt.plan.child`.

It reads a question from standard input and writes the answer to standard output. Where the application registers
structured configs or resolvers, or sets the environment that its configs read, it is imported first, as `__main__`,
with a `hydra.main` that starts nothing. It stays that, for the annotations of its configs are looked up there.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import hydra
from hydra.core.utils import setup_globals

from gpt_opt.app.app import App
from gpt_opt.app.toml_app import TomlApp
from gpt_opt.config.suggest import forget_synonyms
from gpt_opt.errors import ConfigError, GptOptError, Problem
from gpt_opt.plan.compose.resolvers import recorded_resolvers, stand_in_for_hydra
from gpt_opt.plan.planner import Planner
from gpt_opt.run.program import be


def main() -> None:
    """Answers the question."""
    warnings.filterwarnings("ignore", message=r"\s*version_base")  # Hydra says it to those who start the application
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what the application prints is no answer
    app, question, arguments = pickle.loads(sys.stdin.buffer.read())
    error, answer = None, None
    try:
        answer = getattr(Planner(_ready(app)), question)(*arguments)
    except GptOptError as raised:
        error = raised
    with os.fdopen(answer_to, "wb") as stream:
        pickle.dump((error, answer), stream)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # whatever threads the application has


def _ready(app: App) -> App:
    """Returns an application whose configs Hydra can compose in this process.

    Raises:
        ConfigError: If it cannot be imported.
    """
    forget_synonyms()
    setup_globals()
    stand_in_for_hydra(app.job_name)
    pure: frozenset[str] = frozenset()
    if isinstance(app, TomlApp) and app.settings.registers:
        with recorded_resolvers() as names:
            _import(app)
        pure = frozenset(names)
        stand_in_for_hydra(app.job_name)  # an application that composes as it is imported brings Hydra's own back
    return replace(app, pure_resolvers=pure | {"hydra", "now"})


def _import(app: TomlApp) -> None:
    """Runs what the application does as it is imported, and what its script does around the function of Hydra."""
    settings = app.settings
    modules: tuple[Any, ...] = (hydra, import_module("hydra.main"))  # both have it by the name main
    main_of_hydra = hydra.main
    for module in modules:
        module.main = _no_main
    try:
        if settings.script is not None:
            sys.path.insert(0, str(settings.script.parent))
            be([str(settings.script)])
        elif settings.module is not None:
            sys.path.insert(0, str(settings.root))
            be(["-m", settings.module])
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise _not_imported(app, f"SystemExit: {stop.code}") from stop
    except Exception as error:
        raise _not_imported(app, f"{type(error).__name__}: {error}") from error
    finally:
        for module in modules:
            module.main = main_of_hydra


def _not_imported(app: TomlApp, why: str) -> ConfigError:
    program = app.settings.script or app.settings.module
    problem = f"must be importable, since {app.settings.file} says that it registers configs, but raised {why}"
    fix = "see that it imports in this Python; with registers = false it is not imported to compose"
    return ConfigError([Problem(str(program), problem, fix)], ", nothing was started")


def _no_main(*_: Any, **__: Any) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Stands for `hydra.main`: the function that it makes starts nothing."""

    def decorated(function: Callable[..., Any]) -> Callable[..., None]:
        return lambda *_, **__: None

    return decorated


if __name__ == "__main__":
    main()
