"""Where results come from: code, packages, machines and jobs of runs, what they share said once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt_opt.records.job_id import JobId

SHOWN_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy", "gpt-opt")
"""Those whose versions a reader looks for first; where others differ between runs, these too."""


def origins(records: Mapping[str, Mapping[str, Any]], devices: Mapping[str, str]) -> dict[str, Any]:
    """Returns what provenance.json of runs says, as rows of a table.

    Args:
        records: The provenance of each run that has one, by the name of the run.
        devices: What each run trained on, by the name of the run.

    Returns:
        `rows`: a field and its values, each with the runs that have it, all of them being None; `packages`: versions
        that all runs share; `differing`: packages of which they have several versions, like `rows`.
    """
    rows = [(title, {name: read(record) for name, record in records.items()}) for title, read in _FIELDS.items()]
    rows.insert(3, ("device", dict(devices)))
    packages = {name: record.get("packages") or {} for name, record in records.items()}
    every = sorted({package for item in packages.values() for package in item}, key=str.lower)
    versions = {package: {name: item.get(package, "none") for name, item in packages.items()} for package in every}
    same = {package: next(iter(item.values())) for package, item in versions.items() if len(set(item.values())) == 1}
    differing = [_row(package, item) for package, item in versions.items() if package not in same]
    shown = {package: same[package] for package in SHOWN_PACKAGES if package in same}
    found = [_row(title, values) for title, values in rows]
    return {
        "rows": [row for row in found if row["values"]],
        "packages": shown,
        "more_packages": {name: version for name, version in same.items() if name not in shown},
        "differing": differing,
    }


def _row(title: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Returns a field with its distinct values, the most frequent first."""
    runs: dict[str, list[str]] = {}
    for name, value in values.items():
        if value:
            runs.setdefault(value, []).append(name)
    ordered: Sequence[str] = sorted(runs, key=lambda value: -len(runs[value]))
    shared = len(ordered) == 1 and len(runs[ordered[0]]) == len(values)
    return {"name": title, "values": [[value, None if shared else runs[value]] for value in ordered]}


def _commit(record: Mapping[str, Any]) -> str:
    commit, dirty = record.get("git_commit"), record.get("git_dirty")
    if not commit:
        return "not from a git repository" if "git_commit" in record else ""
    return f"{commit} with uncommitted changes" if dirty else str(commit)


def _slurm(record: Mapping[str, Any]) -> str:
    job = JobId.of(record.get("slurm"))
    return "" if job is None else str(job.job)


_FIELDS = {
    "git commit": _commit,
    "code sha256": lambda record: str((record.get("code") or {}).get("sha256") or "")[:16],
    "Python": lambda record: str(record.get("python") or ""),
    "CUDA_VISIBLE_DEVICES": lambda record: str(record.get("cuda_visible_devices") or ""),
    "host": lambda record: str(record.get("host") or ""),
    "platform": lambda record: str(record.get("platform") or ""),
    "Slurm job": _slurm,
}
