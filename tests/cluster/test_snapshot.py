"""Code that is edited while a sweep waits, on a real Slurm: nothing changes, or the runs are refused by their ids."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.records.code import Manifest
from gpt_opt.records.sweep_dir import Sweep
from tests.cluster.bench import Bench
from tests.cluster.cluster import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

LR = "lr: 3e-4"
SUBMITIT = ("--backend", "submitit", "--time-min", "10")


class Project:
    """A copy of the project that may be edited, and a bench whose commands and jobs import from it."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.folder = bench, bench.folder / "project"
        for name in ("gpt_opt", "hydra_conf", "hydra_plugins", "slurm_scripts"):
            shutil.copytree(ROOT / name, self.folder / name)
        shutil.copy(ROOT / "run_hydra.py", self.folder)
        self.optimizer = self.folder / "hydra_conf" / "optimizer" / "adamw.yaml"
        bench.write([70], steps=8)

    def gptopt(self, *arguments: str, expect: int | None = 0) -> str:
        path = f"PYTHONPATH={self.folder}:{self.bench.env['PYTHONPATH']}"
        return self.bench.call("env", path, "gptopt", *arguments, expect=expect)

    def submit_and_wait(self, *flags: str) -> Sweep:
        """Submits a sweep whose job waits for a user to release it."""
        self.gptopt("submit", "sweep.json", "--slots", "1", "--sbatch=--hold", *flags)
        return self.bench.sweep()

    def edit(self) -> None:
        """Changes a default of the config, breaks the program, and changes a module of the user's."""
        text = self.optimizer.read_text()
        assert LR in text
        self.optimizer.write_text(text.replace(LR, "lr: 1e-5"))

    def release(self) -> None:
        self.bench.call("scontrol", "release", self.bench.jobs()[-1].partition("_")[0])


@pytest.fixture
def project(bench: Bench) -> Project:
    return Project(bench)


@pytest.mark.parametrize("backend", [pytest.param((), id="disbatch"), pytest.param(SUBMITIT, id="submitit")])
def test_edits_change_nothing_of_a_sweep_that_waits(project: Project, backend: tuple[str, ...]) -> None:
    bench = project.bench
    sweep = project.submit_and_wait(*backend)
    project.edit()
    broken = project.folder / "gpt_opt" / "dispatch" / "driver.py"
    driver = broken.read_text()
    broken.write_text("raise RuntimeError('broken while the sweep waited')\n")
    (bench.folder / "faulty.py").write_text("raise RuntimeError('broken as well')\n")
    project.release()
    bench.wait_until_done(timeout_s=300)
    bench.wait_until_idle(timeout_s=300)
    broken.write_text(driver)
    bench.verify(steps=8)
    (run,) = sweep.runs
    config = json.loads(run.paths().config.read_text())
    assert config["optimizer"]["optimizer_params"]["lr"] == 3e-4
    made = json.loads(run.paths().provenance.read_text())
    assert made["code"]["snapshot"] == str(sweep.code.resolve())
    manifest = Manifest.read(sweep.code)
    assert manifest is not None
    assert made["code"]["sha256"] == manifest.code_sha256
    (project.folder / "gpt_opt" / "table.py").open("a").write("# edited\n")
    shown = " ".join(project.gptopt("status", "sweep").split())
    line = r"1 done with other code \(.*\); see diff -r -x __pycache__ sweeps/\.code/\w{12}/gpt_opt project/gpt_opt"
    assert re.search(line, shown), shown


@pytest.mark.slow(50)
def test_live_runs_are_refused_by_their_ids(project: Project) -> None:
    bench = project.bench
    sweep = project.submit_and_wait("--live", "--gpus-per-run", "2")
    assert not sweep.code.exists()
    project.edit()
    project.release()
    bench.wait_until_idle(timeout_s=300)
    (status,) = gather(sweep, ask_slurm=False).runs
    (attempt,) = bench.history(0).attempts
    assert (str(status.state), status.cause, attempt.cause) == ("FAILED", "changed_config", "changed_config")
    said = "must have the config that was planned, but optimizer.optimizer_params.lr was 0.0003 and is 1e-05"
    assert status.message == said
    shown = " ".join(project.gptopt("status", "sweep", expect=1).split())
    assert said in shown
    assert not (bench.folder / "outputs").exists(), "nothing was trained and no run directory made"
    # By hand as in a job; and what was edited put back, it trains.
    project.gptopt("retry", "sweep", "--where", "max_samples=70")
    project.release()
    bench.wait_until_idle(timeout_s=300)
    assert [item.cause for item in bench.history(0).attempts] == ["changed_config", "changed_config"]
    text = project.optimizer.read_text()
    project.optimizer.write_text(text.replace("lr: 1e-5", LR))
    project.gptopt("retry", "sweep")
    project.release()
    bench.wait_until_done(timeout_s=300)
    bench.wait_until_idle(timeout_s=300)
    bench.verify(steps=8)


def test_a_retry_has_the_code_of_the_sweep_and_a_submit_that_of_now(project: Project) -> None:
    bench = project.bench
    (bench.folder / "break-70").touch()
    sweep = project.submit_and_wait()
    before = sweep.code.resolve()
    project.release()
    bench.wait_until_idle(timeout_s=300)
    (bench.folder / "faulty.py").write_text("from gpt_opt.training.data import build_jsonl as build\n")
    told = project.gptopt("retry", "sweep")
    assert "the runs have the code that the sweep was submitted with; gptopt submit sweep.json first takes" in told
    project.release()
    bench.wait_until_idle(timeout_s=300)
    assert [item.cause for item in bench.history(0).attempts] == ["exception", "exception"]
    told = project.gptopt("submit", "sweep.json", "--slots", "1")
    assert "sweep sweep/1" in told
    assert "the code has changed (diff -r -x __pycache__ sweeps/.code/" in told
    assert before != sweep.code.resolve()
    project.gptopt("retry", "sweep")
    bench.wait_until_done(timeout_s=300)
    bench.wait_until_idle(timeout_s=300)
    assert bench.history(0).attempts[-1].cause == "completed"
