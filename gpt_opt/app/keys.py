"""What a `gptopt.toml` may hold: every table and key, what its value must be, and what it means.

The reader (settings.py) checks by it, and the file that `gptopt init` writes (template.py) has its comments from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from gpt_opt.sweep.model import is_line

SOURCES: Mapping[str, str | None] = {
    "report": None,
    "tensorboard": "**/events.out.tfevents.*",
    "csv": "**/metrics.csv",
    "trainer_state": "**/trainer_state.json",
    "wandb": "**/run-*.wandb",
}
"""Where the metrics of a run come from, each with the files that have them unless the file names others."""

LAST_CHECKPOINT = "{last_checkpoint}"
"""In `overrides` of [resume]: the newest checkpoint of the run, as an absolute path."""

RUN_FIELDS = ("app", "label", "id")
"""What `dir` of [run] can hold in braces beside keys of the config."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_KEY = r"\w[\w-]*(\.\w[\w-]*)*"
_MISSPELT = re.compile(r"(?<!\$)\{([A-Za-z_]+)\}")


@dataclass(frozen=True)
class Kind:
    """What a value must be.

    Attributes:
        expects: In words, to follow "must be".
        accepts: The same as a function of the value that TOML gives.
    """

    expects: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Key:
    """One key of the file: what its value must be, and what it means."""

    kind: Kind
    doc: str


def fields(text: str) -> list[str]:
    """Returns what stands in braces in a text, in order."""
    return _FIELD.findall(text)


def _lines(value: Any) -> bool:
    return isinstance(value, list) and all(is_line(item) for item in value)


def _is_below(value: Any) -> bool:
    return is_line(value) and not PurePath(value).is_absolute() and ".." not in PurePath(value).parts


def _is_run_dir(value: Any) -> bool:
    if not is_line(value) or ".." in PurePath(value).parts or "$" in value or re.search(r"[{}]", _FIELD.sub("", value)):
        return False
    found = fields(value)
    return "id" in found and all(re.fullmatch(_KEY, field) for field in found)


def _are_resume_overrides(value: Any) -> bool:
    return _lines(value) and not any(
        f"{{{name}}}" != LAST_CHECKPOINT for item in value for name in _MISSPELT.findall(item)
    )


def _matching(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value))


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


_LINE = Kind("a string on one line, not empty and without blanks at its ends", is_line)
_BELOW = Kind("a glob relative to the run directory, without ..", _is_below)
_BOOL = Kind("true or false", lambda value: isinstance(value, bool))
_LINES = Kind("a list of strings, each on one line", _lines)
_KEYS = Kind(
    'a list of dotted keys, as ["logger", "trainer.devices"]',
    lambda value: _lines(value) and all(re.fullmatch(_KEY, item) for item in value),
)

TABLES: Mapping[str, Mapping[str, Key]] = {
    "app": {
        "name": Key(
            Kind(
                "letters, digits and . _ -, beginning with a letter or digit", _matching(r"[A-Za-z0-9][A-Za-z0-9._-]*")
            ),
            "the name of the application, {app} below; by default that of the script",
        ),
        "script": Key(_LINE, "the script that trains, relative to this file"),
        "module": Key(
            Kind("a dotted name, as project.train", _matching(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")),
            "in place of script: what `python -m` runs",
        ),
        "command": Key(
            _LINE, "in place of script, for one that is not Hydra's: its words, {key} a value; no shell reads it"
        ),
        "config_path": Key(_LINE, "folder of the configs, relative to this file"),
        "config_name": Key(_LINE, "the primary config, as in @hydra.main"),
        "version_base": Key(
            Kind('a version of Hydra, as "1.3"', _matching(r"1\.\d+")),
            'as in @hydra.main; "1.1" where that has none, leave it out for None',
        ),
        "defaults": Key(_LINE, "only with command: a YAML file of its parameters and their defaults"),
        "registers": Key(
            _BOOL, "whether importing it registers structured configs or resolvers; then it is imported to compose"
        ),
        "environment": Key(_LINES, "lines of bash for the batch script, before anything starts"),
        "warm_imports": Key(
            _LINES, "modules imported once a slot, so that its runs start without; [] starts each in a new process"
        ),
    },
    "identity": {"exclude": Key(_KEYS, "keys, with all below them, that cannot change the result of a run")},
    "run": {
        "dir": Key(
            Kind(
                "a path without .. and $ that has {id}, and in other braces app, label or a key of the config",
                _is_run_dir,
            ),
            "directory of a run: {app}, {label} (what the sweep gives), {id}, {any.config.key}",
        ),
        "grace_s": Key(Kind("a number of seconds, at least 0", _is_seconds), "seconds from SIGTERM to SIGKILL"),
    },
    "resume": {
        "checkpoints": Key(_BELOW, "glob below the run directory; the newest is {last_checkpoint}"),
        "overrides": Key(
            Kind(f"a list of strings, with no name in braces but {LAST_CHECKPOINT}", _are_resume_overrides),
            "what a run that goes on is given beside its own overrides; [] if it finds its checkpoint by itself",
        ),
    },
    "stages": {
        "start": Key(
            Kind("a dotted key, as model.init_from", _matching(_KEY)),
            "key of the config that names the checkpoint which a run of a later stage starts from",
        ),
    },
    "metrics": {
        "source": Key(
            Kind(" or ".join(f'"{name}"' for name in SOURCES), lambda v: isinstance(v, str) and v in SOURCES),
            "report (gpt_opt.report in its code), tensorboard, csv, trainer_state or wandb (offline)",
        ),
        "files": Key(
            _BELOW, "glob below the run directory; not for report, and only if the files are called otherwise"
        ),
        "step": Key(_LINE, "column of the step, only for csv and wandb"),
    },
}
"""The file: tables, their keys, in the order in which `gptopt init` writes them."""
