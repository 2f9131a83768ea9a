"""Where results come from: code, packages, machines and jobs of runs, what they share said once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.report.runs import ReportedRun
from gpt_opt.records.job_id import JobId
from gpt_opt.records.provenance import packages_in, read_provenance
from gpt_opt.records.summary import read_summary

SHOWN_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy", "gpt-opt")
"""Those whose versions a reader looks for first."""

_DIRTY = " with uncommitted changes"


@dataclass(frozen=True)
class Field:
    """One thing that provenance says.

    Attributes:
        name: What it is.
        values: Distinct values, each with the names of the runs that have it, the most frequent first.
        is_shared: Whether all runs that say it have the same.
    """

    name: str
    values: Sequence[tuple[str, Sequence[str]]]
    is_shared: bool


@dataclass(frozen=True)
class Origin:
    """Where the results of runs come from.

    Attributes:
        fields: Code, machines, jobs.
        packages: Versions that all runs share, of `SHOWN_PACKAGES`.
        more_packages: Other versions that all runs share.
        differing: Packages of which runs have several versions.
    """

    fields: Sequence[Field]
    packages: Mapping[str, str]
    more_packages: Mapping[str, str]
    differing: Sequence[Field]

    @property
    def commits(self) -> list[str]:
        """The distinct git commits."""
        return list(dict.fromkeys(value.removesuffix(_DIRTY) for value in self._code))

    @property
    def is_dirty(self) -> bool:
        """Whether a run had uncommitted changes."""
        return any(value.endswith(_DIRTY) for value in self._code)

    @property
    def _code(self) -> list[str]:
        return [value for field in self.fields if field.name == _COMMIT for value, _ in field.values]


def origin_of(runs: Sequence[ReportedRun]) -> Origin:
    """Returns what provenance.json of runs says; those without one have not begun, and are left out."""
    records = {run.name: record for run in runs if (record := read_provenance(run.paths))}
    fields = [_field(name, {run: read(record) for run, record in records.items()}) for name, read in _FIELDS.items()]
    fields.insert(3, _field("device", {run.name: _device(run) for run in runs if run.name in records}))
    packages = {run: packages_in(record) for run, record in records.items()}
    every = sorted({name for versions in packages.values() for name in versions}, key=str.lower)
    of_package = [_field(name, {run: item.get(name, "none") for run, item in packages.items()}) for name in every]
    same = {field.name: field.values[0][0] for field in of_package if field.is_shared}
    return Origin(
        [field for field in fields if field.values],
        {name: same[name] for name in SHOWN_PACKAGES if name in same},
        {name: version for name, version in same.items() if name not in SHOWN_PACKAGES},
        [field for field in of_package if not field.is_shared],
    )


def _field(name: str, values: Mapping[str, str]) -> Field:
    runs: dict[str, list[str]] = {}
    for run, value in values.items():
        if value:
            runs.setdefault(value, []).append(run)
    ordered = sorted(runs.items(), key=lambda item: -len(item[1]))
    return Field(name, ordered, len(ordered) == 1)


def _device(run: ReportedRun) -> str:
    try:
        return str(read_summary(run.paths).get("device") or "")
    except (OSError, ValueError):
        return ""


def _commit(record: Mapping[str, Any]) -> str:
    commit = record.get("git_commit")
    if not commit:
        return "not from a git repository" if "git_commit" in record else ""
    return f"{commit}{_DIRTY}" if record.get("git_dirty") else str(commit)


def _code_digest(record: Mapping[str, Any]) -> str:
    code = record.get("code")
    return str(code.get("sha256") or "")[:16] if isinstance(code, dict) else ""


def _slurm(record: Mapping[str, Any]) -> str:
    job = JobId.of(record.get("slurm"))
    return "" if job is None else str(job.job)


_COMMIT = "git commit"

_FIELDS = {
    _COMMIT: _commit,
    "code sha256": _code_digest,
    "Python": lambda record: str(record.get("python") or ""),
    "CUDA_VISIBLE_DEVICES": lambda record: str(record.get("cuda_visible_devices") or ""),
    "host": lambda record: str(record.get("host") or ""),
    "Slurm job": _slurm,
}
