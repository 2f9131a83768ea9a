"""Two runs compared by what they left: config, code, data, packages, machine, results. Only what differs is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.files import Problems, flatten, read_object
from analysis.parameters import is_of_training_app
from gpt_opt.records.code import PACKAGE, code_in
from gpt_opt.records.provenance import inputs_in, packages_in
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.run_id import TRAINING
from gpt_opt.records.state import read_run

ABSENT = None
"""Stands for a value that one of the two runs does not have."""

Pair = tuple[Any, Any]
"""The value of the first run, and of the second."""

_MACHINE = ("host", "platform", "cpus", "cuda_visible_devices", "slurm", "python")
_COST = ("time_s", "tokens", "peak_memory_mb", "device")
_SHORT = 12
"""Hex digits of a fingerprint or a commit that people are shown."""

_FORMER_NAMES = {"prompts_cut": "prompts_truncated", "answers_cut": "completions_truncated"}
"""Counts of summary.json by the names that they had in earlier versions."""


@dataclass(frozen=True)
class RunDiff:
    """What differs between two runs.

    Attributes:
        runs: Their directories.
        parts: Name of a part (`config`, `code`, ...) to its keys that differ, each with both values.
        equal: Name of each part without a difference, with what it is; parts that neither run recorded are left out.
        commands: What shows a difference of the code in full.
        problems: What could not be read, a line each.
    """

    runs: tuple[Path, Path]
    parts: Mapping[str, Mapping[str, Pair]]
    equal: Mapping[str, str]
    commands: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Record:
    """What one run left, by part: a flat value for each key."""

    parts: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    paths: RunPaths


def compare_runs(first: RunPaths, second: RunPaths) -> RunDiff:
    """Compares two runs by the files in their directories."""
    problems = Problems()
    a, b = _read(first, problems), _read(second, problems)
    differ, equal = {}, {}
    for name in a.parts:
        found = _differences(a.parts[name], b.parts[name])
        if found:
            differ[name] = found
        elif a.parts[name]:
            equal[name] = _what(name, a.parts[name])
    return RunDiff((first.root, second.root), differ, equal, _commands(a, b, differ), tuple(problems.found))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Pair]:
    keys = dict.fromkeys((*a, *b))
    pairs = {key: (a.get(key, ABSENT), b.get(key, ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not _same(*pair)}


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def _read(paths: RunPaths, problems: Problems) -> _Record:
    config = flatten(read_object(paths.config, problems) or {})
    provenance = read_object(paths.provenance, problems) or {}
    summary = read_object(paths.summary, problems) or {}
    record = read_run(paths)
    metrics = summary.get("metrics")
    is_other_app = not is_of_training_app(config)
    counts = {key for key in config if is_other_app or TRAINING.has(key)}
    parts = {
        "config": {key: value for key, value in config.items() if key in counts},
        "config that changes no result": {key: value for key, value in config.items() if key not in counts},
        "code": _code(provenance, paths),
        "data": _data(provenance, summary),
        "packages": packages_in(provenance),
        "machine": {name: provenance[name] for name in _MACHINE if name in provenance},
        "state": {"state": str(record.state), "step": record.file.step, "total_steps": record.file.total_steps},
        "metrics": dict(metrics) if isinstance(metrics, dict) else {},
        "cost": {name: summary[name] for name in _COST if name in summary},
    }
    return _Record(parts, provenance, paths)


def _code(provenance: Mapping[str, Any], paths: RunPaths) -> dict[str, Any]:
    known = code_in(provenance)
    found = {"commit": provenance.get("git_commit"), "uncommitted changes": _diff_of(paths)}
    found["content"] = None if known is None else known.sha256[:_SHORT]
    return {key: value for key, value in found.items() if value is not None}


def _diff_of(paths: RunPaths) -> str | None:
    """Returns the uncommitted changes that a run was made with; None for none."""
    try:
        return paths.git_diff.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None


def _data(provenance: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, record in inputs_in(provenance).items():
        if digest := record.get("sha256"):
            found[name] = str(digest)[:_SHORT]
    if isinstance(digest := summary.get("data_fingerprint"), str):
        found["tokenized data"] = digest[:_SHORT]
    if isinstance(rows := summary.get("data"), dict):
        for key, value in flatten(rows).items():
            *split, name = key.split(".")
            found[".".join([*split, _FORMER_NAMES.get(name, name)])] = value
    return found


def _what(name: str, values: Mapping[str, Any]) -> str:
    """Returns what a part without a difference is: `code (3f2a...)`, `162 packages`."""
    if name == "packages":
        return f"{len(values)} packages"
    key = {"code": "content", "data": "tokenized data", "state": "state", "machine": "host"}.get(name, "")
    return f"{name} ({values[key]})" if key in values else name


def _commands(a: _Record, b: _Record, differ: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns commands that show how the code differs, as far as both versions are kept."""
    if "code" not in differ:
        return ()
    found = []
    codes = code_in(a.provenance), code_in(b.provenance)
    folders = [code.folder for code in codes if code is not None and code.folder is not None]
    kept = [os.path.relpath(folder) for folder in folders if Path(folder, PACKAGE).is_dir()]
    commits = [str(record.provenance.get("git_commit") or "") for record in (a, b)]
    if len(kept) == 2 and kept[0] != kept[1]:
        found.append(f"diff -r -x __pycache__ {kept[0]}/{PACKAGE} {kept[1]}/{PACKAGE}")
    elif all(commits) and commits[0] != commits[1]:
        found.append(f"git diff {commits[0][:_SHORT]} {commits[1][:_SHORT]} -- {PACKAGE}")
    if "uncommitted changes" in differ["code"]:
        files = [record.paths.git_diff if record.paths.git_diff.exists() else Path(os.devnull) for record in (a, b)]
        found.append(f"diff {files[0]} {files[1]}")
    return tuple(found)
