"""The runs of a report, whether a sweep directory planned them or they merely lie in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.report.costs import Cost, cost_in_sweep, cost_of_run
from gpt_opt.records.job_id import JobId
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import read_run
from gpt_opt.records.sweep_dir import Sweep


@dataclass(frozen=True)
class ReportedRun:
    """One run.

    Attributes:
        row: Its row in the frame of runs; None where it has no directory yet.
        name: What people call it: its index or `STAGE/NUMBER`, in a folder the end of its path.
        run_id: Hash of its config.
        state: As `gptopt status` says it.
        root: Its directory.
        overrides: Hydra overrides that give its config; None where they are not known.
        cost: What it cost.
        stage: Of a pipeline; "" otherwise.
        parent: Name of the run that it starts from; "" for none, or where that is to be chosen.
        message: Why it is not complete, on one line; may be empty.
        traceback: Of the exception that ended it; may be empty.
        node: Where it ran last; may be empty.
        gpus: Devices of its last attempt.
        slurm_job: Of its last attempt; may be empty.
    """

    row: int | None
    name: str
    run_id: str
    state: str
    root: Path
    overrides: tuple[str, ...] | None
    cost: Cost
    stage: str = ""
    parent: str = ""
    message: str = ""
    traceback: str = ""
    node: str = ""
    gpus: tuple[str, ...] = field(default=())
    slurm_job: str = ""

    @property
    def paths(self) -> RunPaths:
        """Its files."""
        return RunPaths(self.root)


def runs_of_sweep(sweep: Sweep, status: Mapping[str, Any], frame: pd.DataFrame) -> list[ReportedRun]:
    """Returns the runs of a sweep in the order of its plan.

    Args:
        sweep: The sweep directory.
        status: What `gptopt status --json` prints of it.
        frame: What `load_runs` returned for it.
    """
    rows = {run_id: row for row, run_id in enumerate(frame["run_id"].tolist())}
    names = {item["index"]: item["name"] for item in status["items"]}
    planned, shapes = {run.index: run for run in sweep.runs}, sweep.submission().shapes
    found = []
    for item in status["items"]:
        paths = RunPaths(Path(item["run_dir"]))
        decided = not item["choice"] or status["choices"][item["choice"]]["decided"]
        found.append(
            ReportedRun(
                row=rows.get(item["run_id"]),
                name=item["name"],
                run_id=item["run_id"],
                state=item["state"],
                root=paths.root,
                overrides=tuple(item["overrides"]),
                cost=cost_in_sweep(sweep, planned[item["index"]], paths, shapes[item["shape"]]),
                stage=item["stage"] or "",
                parent=names.get(item["parent"], "") if decided else "",
                message=item["message"],
                traceback=_traceback(read_run(paths).file.error) if item["message"] else "",
                node=item["node"] or "",
                gpus=tuple(item["gpus"]),
                slurm_job=item["slurm_job"] or "",
            )
        )
    return found


def runs_of_folder(frame: pd.DataFrame) -> list[ReportedRun]:
    """Returns the runs that lie in a folder, in the order of the frame that `load_runs` returned for it."""
    found = []
    columns = zip(*(frame[name].tolist() for name in ("run_id", "state", "path", "error", "time_s")), strict=True)
    for row, (run_id, state, path, error, time_s) in enumerate(columns):
        paths = RunPaths(Path(path))
        file = read_run(paths).file
        job = JobId.of(file.slurm)
        found.append(
            ReportedRun(
                row=row,
                name=paths.root.name,
                run_id="" if pd.isna(run_id) else run_id,
                state="unreadable" if pd.isna(state) else state,
                root=paths.root,
                overrides=_overrides(paths),
                cost=cost_of_run(paths, None if pd.isna(time_s) else time_s),
                message="" if pd.isna(error) else error,
                traceback=_traceback(file.error),
                node=file.host or "",
                gpus=tuple(file.gpus),
                slurm_job="" if job is None else str(job.job),
            )
        )
    return found


def _overrides(paths: RunPaths) -> tuple[str, ...] | None:
    """Returns what Hydra noted of the command line of a run, None where it did not."""
    try:
        lines = yaml.safe_load((paths.hydra / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return tuple(lines) if isinstance(lines, list) and all(isinstance(line, str) for line in lines) else None


def _traceback(error: Mapping[str, Any] | None) -> str:
    return str((error or {}).get("traceback") or "")
