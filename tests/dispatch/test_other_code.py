"""What plan and status say of done runs that were made with other code than that of now."""

from __future__ import annotations

import json
from pathlib import Path

from gpt_opt.cli.views import plan as views
from gpt_opt.cli.views import status as show_status
from gpt_opt.config.schema import register
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.planner import Planner
from gpt_opt.records.code import this_code
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import SweepRun
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR
from tests.dispatch.on_disk import make_sweep, write_run

LINE = "1 done with other code ("


def note_code(paths: RunPaths, sha256: str) -> None:
    code = {"sha256": sha256, "snapshot": None}
    record = {"time": "2026-01-01T10:00:00.000+00:00", "git_commit": "c" * 40, "git_dirty": True, "code": code}
    write_text(paths.provenance, to_json(record))


def test_status_tells_of_done_runs_alone(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=0"], ["seed=1"], ["seed=2"], ["seed=3"]])
    for run, state, sha256 in zip(
        sweep.runs,
        [State.COMPLETED, State.COMPLETED, State.FAILED],
        [this_code().sha256, "other", "other"],
        strict=False,
    ):
        note_code(write_run(run, state, 100), sha256)
    write_run(sweep.runs[3], State.COMPLETED, 100)  # of a version that did not record it
    status = gather(sweep)
    assert [note.startswith(LINE) for note in status.notes] == [True]
    assert LINE in show_status.as_text(status, None)
    note_code(sweep.runs[1].paths(), this_code().sha256)
    assert not gather(sweep, before=status).notes


def test_a_plan_tells_of_done_runs_and_names_the_code_of_each(tmp_path: Path) -> None:
    register()
    register_resolvers()
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps({"base": {"paths.output_dir": str(tmp_path)}, "grid": {"loss.beta": [0.1, 0.2, 0.3]}}))
    plan = Planner(own_app(CONFIG_DIR)).plan(file)
    for run, sha256 in zip(plan.runs, ["other", this_code().sha256], strict=False):
        note_code(write_run(SweepRun(run.index, run.run_id, run.run_dir, run.overrides), State.COMPLETED, 100), sha256)
    plan = Planner(own_app(CONFIG_DIR)).plan(file)
    assert any(line.startswith(LINE) for line in views.as_text(plan).splitlines())
    record = views.as_record(plan)
    assert [item["code"] for item in record["items"]] == ["other", record["code"], None]
