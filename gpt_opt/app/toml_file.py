"""The text of a `gptopt.toml` -> its values, checked; every mistake at once, each with its line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_opt.app.keys import TABLES, Key
from gpt_opt.config.suggest import nearest
from gpt_opt.errors import ConfigError, Problem

_OF_A_VALUE = ("Invalid value", "Expected newline or end of document")
"""What tomllib says of a string that stands in no quotes, and else mostly of other values."""

_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def read_tables(file: Path) -> dict[str, dict[str, Any]]:
    """Returns the values of every table of `TABLES` that the file gives; a table that it lacks is empty.

    Raises:
        ConfigError: If the file cannot be read or is wrong, with every mistake in it.
    """
    reader = _Reader(file)
    if reader.problems:
        raise ConfigError(reader.problems, f" with {file}")
    return reader.values


def resolved(root: Path, given: str) -> Path:
    """Returns a path of the file as an absolute one."""
    return root / Path(given).expanduser()


def without_suffix(name: str) -> str:
    """Returns the name of a config, which Hydra takes with `.yaml` too, without it."""
    return re.sub(r"\.ya?ml$", "", name)


def _parsed(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        problem = Problem(str(file), f"must be readable: {error.strerror}", "gptopt init writes one")
    except UnicodeDecodeError as error:
        problem = Problem(str(file), f"must be UTF-8, but byte {error.start} is 0x{error.object[error.start]:02x}")
    except tomllib.TOMLDecodeError as error:
        at = _AT.search(str(error))
        where = f"{file.name}:{at[1]}" if at and at[1] else file.name
        unquoted = bool(at and at[1]) and str(error).startswith(_OF_A_VALUE)
        fix = 'strings stand in quotes (name = "train"), true and false in none' if unquoted else ""
        problem = Problem(where, f"must be TOML: {_AT.sub('', str(error))}", fix)
    raise ConfigError([problem], f" with {file}")


class _Reader:
    """The file, its values that are right, and every problem of the others."""

    def __init__(self, file: Path) -> None:
        self.problems: list[Problem] = []
        self.values: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
        self._root, self._name = file.parent, file.name
        text, tables = _parsed(file)
        self._lines = text.splitlines()
        self._given = {(name, key) for name, table in tables.items() if isinstance(table, dict) for key in table}
        for name, table in tables.items():
            self._check_table(name, table)
        self._check_program(self.values["app"])
        self._check_paths(self.values["app"])
        self._check_resume_and_metrics("resume" in tables)

    def _add(self, table: str, key: str, message: str, fix: str = "") -> None:
        self.problems.append(Problem(self._where(table, key), message, fix))

    def _where(self, table: str, key: str) -> str:
        """Returns `file:line [table] key`; the line where the key, or else its table, stands as one writes it."""
        inside, line = "", 0
        for number, text in enumerate(self._lines, start=1):
            if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", text):
                inside = header[1]
                line = number if inside == table and not line else line
            elif inside == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", text):
                line = number
                break
        at = f"{self._name}:{line}" if line else self._name
        return f"{at} [{table}] {key}".rstrip()

    def _check_table(self, name: str, table: Any) -> None:
        keys = TABLES.get(name)
        if keys is None:
            homes = [other for other, known in TABLES.items() if name in known]
            near = nearest(name, TABLES)
            fix = f"it belongs below [{homes[0]}]" if homes else f"did you mean [{near}]?" if near else ""
            fix = fix or f"the tables are {', '.join(f'[{other}]' for other in TABLES)}"
            self.problems.append(Problem(self._where(name, ""), "is not a table of this file", fix))
        elif not isinstance(table, dict):
            message = f"must be a table, but is {table!r:.60}"
            self.problems.append(Problem(self._name, f"{name} {message}", f"write [{name}] on a line of its own"))
        else:
            for key, value in table.items():
                self._check_value(name, key, value, keys)

    def _check_value(self, table: str, key: str, value: Any, keys: Mapping[str, Key]) -> None:
        if key not in keys:
            homes = [name for name, known in TABLES.items() if key in known]
            near = nearest(key, keys)
            fix = f"it belongs below [{homes[0]}]" if homes else f"did you mean {near}?" if near else ""
            self._add(table, key, f"is not a key of [{table}]", fix or f"its keys are {', '.join(keys)}")
        elif keys[key].kind.accepts(value):
            self.values[table][key] = value
        else:
            self._add(table, key, f"must be {keys[key].kind.expects}, but is {value!r:.80}", f"it is {keys[key].doc}")

    def _check_program(self, app: Mapping[str, Any]) -> None:
        ways = [key for key in ("script", "module", "command") if ("app", key) in self._given]
        if len(ways) != 1:
            got = f"{' and '.join(ways)} are" if ways else "none is"
            fix = 'write script = "train.py", or leave it to gptopt init'
            self._add("app", ways[-1] if ways else "", f"one of script, module, command must be given, but {got}", fix)
            return
        hydra = [key for key in ("config_path", "config_name", "version_base", "registers") if key in app]
        if ways == ["command"]:
            for key in hydra:
                self._add("app", key, "is for applications of Hydra, which a command is not", f"leave {key} out")
            if ("app", "defaults") not in self._given:
                fix = 'write defaults = "defaults.yaml", a file with `key: default` for every {key}'
                self._add("app", "command", "must have its parameters in a file", fix)
        elif "defaults" in app:
            fix = "leave it out; the defaults are in the config"
            self._add("app", "defaults", f"is for a command, but {ways[0]} is given", fix)
        elif not app.get("registers") and ("app", "config_path") not in self._given:
            fix = 'write config_path = "conf", or registers = true where its configs are all in its code'
            self._add("app", ways[0], "must say where its configs are", fix)

    def _check_paths(self, app: Mapping[str, Any]) -> None:
        for key, kind, exists in (
            ("script", "a file", Path.is_file),
            ("config_path", "a folder", Path.is_dir),
            ("defaults", "a file", Path.is_file),
        ):
            if key in app and not exists(resolved(self._root, app[key])):
                self._add("app", key, f"must be {kind} that exists, but is {app[key]!r}", self._neighbours(app[key]))
            elif key in app and os.path.normpath(app[key]).startswith(".."):
                above = os.path.commonpath([self._root, os.path.normpath(resolved(self._root, app[key]))])
                message = f"must lie below this file, since runs start from a copy of its folder, but is {app[key]!r}"
                self._add("app", key, message, f"have {self._name} in {above}, with paths from there")
        folder = resolved(self._root, app.get("config_path", ""))
        name = without_suffix(app.get("config_name", "config"))
        if "config_path" in app and folder.is_dir() and not app.get("registers"):
            others = sorted(file.stem for file in folder.glob("*.yaml"))
            if name not in others and not (folder / f"{name}.yaml").is_file():
                fix = f"{app['config_path']} holds {', '.join(others[:8]) or 'none'}"
                self._add("app", "config_name", f"must be a YAML file of config_path, but is {name!r}", fix)

    def _neighbours(self, given: str) -> str:
        folder = resolved(self._root, given).parent
        try:
            names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
        except OSError:
            return f"{folder} does not exist either"
        near = nearest(Path(given).name, names)
        return f"did you mean {Path(given).with_name(near)}?" if near else f"{folder} holds {', '.join(names[:8])}"

    def _check_resume_and_metrics(self, resumes: bool) -> None:
        if resumes and ("resume", "checkpoints") not in self._given:
            fix = 'write checkpoints = "checkpoints/*.ckpt", or leave the table out: then a run starts anew'
            self._add("resume", "", "must have checkpoints", fix)
        metrics = self.values["metrics"]
        source = metrics.get("source", "report")
        if source == "report" and "files" in metrics:
            self._add(
                "metrics", "files", "is not for the source report", "leave it out, or say the source of these files"
            )
        if source not in ("csv", "wandb") and "step" in metrics:
            self._add("metrics", "step", f"is for the sources csv and wandb, but that is {source}", "leave it out")
