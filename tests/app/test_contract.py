"""What every application has from gpt-opt, its own training like those of others: planned, run, found again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.app.app import App
from gpt_opt.app.init import initial
from gpt_opt.app.settings import AppSettings, read_settings
from gpt_opt.app.toml_app import app_of
from gpt_opt.dispatch.snapshot import app_root
from gpt_opt.dispatch.submit import Request, prepare
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.existing import Status
from gpt_opt.plan.planner_of import planner_of
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State, read_state
from gpt_opt.records.step_log import read_metrics
from gpt_opt.records.summary import read_summary
from gpt_opt.records.sweep_dir import Sweep, SweepRun
from gpt_opt.run.same_config import require_same
from tests.helpers.apps import copied

APPS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "plain": (["model=far"], {"lr": [0.1]}),
    "structured": (["optimizer.lr=0.3"], {"width": [8]}),
    "lightning_like": (["logger=csv"], {"model.lr": [0.2]}),
    "module_like": ([], {"lr": [0.2]}),
    "argparse_like": (["task=line"], {"weights": [[1.0, 3.0]]}),
    "gpt-opt": ([], {"loss.beta": [0.1]}),
}
"""Overrides and grid of a run of each."""


class Desk:
    """A folder in which an application has a sweep of one run.

    Args:
        folder: The folder of the application.
        app: The application.
        base: Overrides.
        grid: The grid.
    """

    def __init__(self, folder: Path, app: App, base: Sequence[str], grid: dict[str, Any]) -> None:
        self.folder, self.app, self.base = folder, app, tuple(base)
        self.file = folder / "grid.json"
        self.file.write_text(json.dumps({"grid": grid}))

    def submitted(self, live: bool = True) -> Sweep:
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            return prepare(Request(self.file, self.base, "local", 1, {}, self.app, Path("sweeps"), live=live))
        finally:
            os.chdir(before)

    def status(self) -> list[Status]:
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            return [run.status for run in planner_of(self.app).plan(self.file, self.base, sweeps=Path("sweeps")).runs]
        finally:
            os.chdir(before)

    def start(self, sweep: Sweep, run: SweepRun) -> subprocess.Popen[bytes]:
        """Starts a run as a slot does."""
        submission = sweep.submission()
        program, root = submission.program, app_root(sweep, submission)
        words = program.arguments(root, run.paths().root, run.run_id, run.overrides)
        environment = {**os.environ, "GPTOPT_SWEEP_DIR": str(sweep.root.absolute()), "GPTOPT_RUN_ID": run.run_id}
        if program.on_path:
            environment["PYTHONPATH"] = str(root)
        log = (self.folder / "err").open("ab")
        return subprocess.Popen([sys.executable, *words], cwd=self.folder, env=environment, stdout=log, stderr=log)

    def said(self) -> str:
        return (self.folder / "err").read_text()


def desk_of(name: str, folder: Path, small: Sequence[str], *further: str) -> Desk:
    base, grid = APPS[name]
    if name == "gpt-opt":
        return Desk(folder, own_app(), [*small, *base, *further], grid)
    root = copied(name, folder)
    before = os.getcwd()
    os.chdir(root)
    try:
        script = Path("train.py") if name == "argparse_like" else None
        for file, text in initial(root, script, None).files.items():
            (root / file).write_text(text)
    finally:
        os.chdir(before)
    return Desk(root, app_of(read_settings(root / "gptopt.toml")), [*base, *further], grid)


@pytest.mark.parametrize("name", APPS)
def test_a_run_is_made_once_and_found_again(name: str, tmp_path: Path, small: list[str]) -> None:
    desk = desk_of(name, tmp_path, small)
    sweep = desk.submitted()
    (run,) = sweep.runs
    assert desk.start(sweep, run).wait(120) == 0, desk.said()
    (paths,) = [RunPaths(path) for path in run.paths().root.parent.glob(f"*{run.run_id}")]
    state, summary = read_state(paths), read_summary(paths)
    assert (state.state, state.run_id, summary["run_id"]) == (State.COMPLETED, run.run_id, run.run_id)
    assert desk.app.identity.run_id(json.loads(paths.config.read_text())) == run.run_id
    assert summary["step"] == max((row["step"] for row in read_metrics(paths.metrics).records), default=0)
    before = paths.summary.read_bytes()
    assert desk.start(sweep, run).wait(120) == 0, desk.said()
    assert paths.summary.read_bytes() == before
    assert "already complete" in desk.said()
    assert desk.status() == [Status.DONE]


def test_a_path_that_a_program_makes_of_its_file_is_no_other_config_in_a_snapshot(tmp_path: Path) -> None:
    desk = desk_of("structured", tmp_path, [])
    sweep = desk.submitted(live=False)
    (run,) = sweep.runs
    assert desk.start(sweep, run).wait(60) == 0, desk.said()
    paths = run.paths()
    assert json.loads(paths.config.read_text())["root"] == str(desk.folder)
    assert f"root: {sweep.code.resolve()}" in (paths.hydra / "config.yaml").read_text()
    assert read_state(paths).state is State.COMPLETED


def until(holds: Callable[[], bool], desk: Desk) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, desk.said()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "slow"),
    [("plain", ["steps=40", "pause_s=0.05"]), ("lightning_like", ["trainer.max_steps=40", "trainer.pause_s=0.05"])],
)
def test_a_run_that_was_killed_and_stopped_has_its_result(
    name: str, slow: list[str], tmp_path: Path, small: list[str]
) -> None:
    desk, resumes = desk_of(name, tmp_path, small, *slow), name == "lightning_like"
    sweep = desk.submitted()
    (run,) = sweep.runs
    paths = run.paths()
    for attempt, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        process = desk.start(sweep, run)
        until(lambda attempt=attempt: desk.said().count(f"run {run.run_id}: ") == attempt, desk)  # type: ignore[misc]
        made = paths.checkpoints if resumes else paths.metrics
        before = size(made)
        until(lambda made=made, before=before: size(made) > before + 1, desk)  # type: ignore[misc]
        process.send_signal(number)
        assert process.wait(60) != 0
        assert read_state(paths).state is State.INTERRUPTED
    assert desk.status() == [Status.RESUME if resumes else Status.NEW]
    assert desk.start(sweep, run).wait(60) == 0, desk.said()
    steps = [row["step"] for row in read_metrics(paths.metrics).records]
    assert sorted(set(steps)) == list(range(1, 41))
    assert read_summary(paths)["step"] == 40
    assert desk.said().count("goes on from checkpoints/step=") == (3 if resumes else 0)  # one is what a stop says
    assert desk.said().count("starts anew") == (0 if resumes else 2)


def size(place: Path) -> int:
    """Returns the number of files in a folder, or of lines of a file."""
    if not place.exists():
        return 0
    return len(list(place.iterdir())) if place.is_dir() else len(place.read_text().splitlines())


@pytest.mark.parametrize(("name", "file"), [("plain", "conf/config.yaml"), ("argparse_like", "defaults.yaml")])
def test_another_config_than_the_planned_one_gives_no_result(
    name: str, file: str, tmp_path: Path, small: list[str]
) -> None:
    desk = desk_of(name, tmp_path, small)
    sweep = desk.submitted()
    (run,) = sweep.runs
    text = (desk.folder / file).read_text()
    (desk.folder / file).write_text(re.sub("^steps: .*", "steps: 2", text, flags=re.MULTILINE))
    assert desk.start(sweep, run).wait(60) == 2, desk.said()
    state = read_state(run.paths())
    assert state.state is State.FAILED
    assert not run.paths().summary.exists()
    assert re.search(r"must have the config that was planned, but steps was [35] and is 2\n", desk.said())
    assert desk.status() == [Status.NEW], "the edited file describes another run"


def test_values_that_a_machine_or_a_type_writes_otherwise_are_no_other_config(tmp_path: Path) -> None:
    settings = AppSettings(
        name="a", root=tmp_path, exclude=frozenset({"out"}), resume_overrides=("+ckpt={last_checkpoint}",)
    )
    planned = {
        "lr": 0.1,
        "kind": "Kind.RED",
        "path": "/a/b",
        "out": "x",
        "ckpt": None,
        "n": 1,
        "betas": [0.9],
        "missing": float("nan"),
        "m": None,
    }
    started = {
        "lr": 0.1,
        "kind": "RED",
        "path": "${root}/b",
        "out": "y",
        "ckpt": "last",
        "n": 1.0,
        "betas": [0.9],
        "missing": float("nan"),
        "m": {"a": 1},
    }
    require_same(settings, planned, started, "0123", tmp_path)
    with pytest.raises(
        ConfigError, match=r"run 0123: must have .* kind was 'Kind.RED' and is 'BLUE', lr was 0.1 and is 1"
    ):
        require_same(settings, planned, {**started, "lr": 1, "kind": "BLUE"}, "0123", tmp_path)


def test_a_path_in_the_snapshot_is_that_in_the_repository_and_no_other(tmp_path: Path) -> None:
    real, repository = tmp_path / "code", tmp_path / "repository"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    settings, planned = AppSettings(name="a", root=tmp_path / "link"), {"data": f"{repository}/data"}
    for root in (real, tmp_path / "link"):
        require_same(settings, planned, {"data": f"{root}/data"}, "0123", repository)
    for other in (f"{real}/other", f"{real}er/data", f"{tmp_path}/elsewhere/data"):
        with pytest.raises(ConfigError, match="data was"):
            require_same(settings, planned, {"data": other}, "0123", repository)
