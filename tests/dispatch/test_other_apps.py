"""Sweeps of applications that were not written for gpt-opt: submitted, run here, started from one another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from gpt_opt.app.settings import read_settings
from gpt_opt.app.toml_app import app_of
from gpt_opt.dispatch.submit import Request, prepare, preview
from gpt_opt.plan.existing import Status
from gpt_opt.plan.planner_of import planner_of
from gpt_opt.records.sweep_dir import Sweep
from tests.helpers.apps import copied

STAGED = """
from pathlib import Path
import hydra

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    start = float(Path(cfg.init_from).read_text()) if cfg.init_from else 1.0
    out = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
    (out / "it's a=1,b.txt").write_text(str(start * cfg.factor))

main()
"""


def drive(folder: Path) -> None:
    """Works through the last sweep below a folder, on this machine."""
    done = subprocess.run(
        [sys.executable, "-m", "gpt_opt.cli", "drive", "g", "--slots", "2"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stage_starts_from_the_checkpoints_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("factor: 2\ninit_from: null\n")
    (tmp_path / "train.py").write_text(STAGED)
    (tmp_path / "gptopt.toml").write_text(
        '[app]\nscript = "train.py"\nconfig_path = "conf"\nversion_base = "1.3"\n'
        '[resume]\ncheckpoints = "*.txt"\noverrides = ["init_from={last_checkpoint}"]\n[stages]\nstart = "init_from"\n'
    )
    stages = [{"name": "pre", "grid": {"factor": [3]}}, {"name": "ft", "from": "pre", "grid": {"factor": [5]}}]
    (tmp_path / "g.json").write_text(json.dumps({"stages": stages}))
    app, before = app_of(read_settings(tmp_path / "gptopt.toml")), os.getcwd()
    os.chdir(tmp_path)
    try:
        sweep = prepare(Request(Path("g.json"), (), "local", 2, {}, app, Path("sweeps")))
    finally:
        os.chdir(before)
    pre, ft = sweep.runs
    assert f"init_from=run:{pre.run_id}" in ft.overrides
    (tmp_path / "train.py").write_text("raise SystemExit('edited after it was submitted')")
    drive(tmp_path)
    made = {run.name: next(run.paths().root.glob("*.txt")) for run in Sweep(sweep.root).runs}
    assert [made[name].read_text() for name in ("pre/0", "ft/0")] == ["3.0", "15.0"]
    given = yaml.safe_load((made["ft/0"].parent / ".hydra" / "config.yaml").read_text())
    assert given == {"factor": 5, "init_from": str(made["pre/0"])}
    found = planner_of(app).plan(tmp_path / "g.json", sweeps=tmp_path / "sweeps")
    assert [run.status for run in found.runs] == [Status.DONE, Status.DONE]
    assert "done with other code" not in json.dumps([run.change for run in found.runs])
    assert found.code.sha256 != found.runs[0].code.sha256  # type: ignore[union-attr]


def test_the_disbatch_launcher_takes_the_sweep_of_an_application(tmp_path: Path) -> None:
    folder = copied("plain", tmp_path)
    command = [sys.executable, "train.py", "-m", "hydra/launcher=disbatch", "hydra.launcher.slots=2", "lr=0.1,0.2"]
    refused = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "`gptopt init` writes the gptopt.toml that says how its runs are started" in refused.stderr
    (folder / "gptopt.toml").write_text('[app]\nscript = "train.py"\nconfig_path = "conf"\n')
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 COMPLETED" in done.stdout
    assert len(list(folder.glob("outputs/train/*/summary.json"))) == 2


def test_the_batch_script_has_the_environment_of_the_application(tmp_path: Path) -> None:
    folder = copied("plain", tmp_path)
    (folder / "gptopt.toml").write_text(
        '[app]\nscript = "train.py"\nconfig_path = "conf"\nenvironment = ["module load cuda/12.4"]\n'
    )
    (folder / "g.json").write_text('{"lr": [0.1]}')
    app = app_of(read_settings(folder / "gptopt.toml"))
    text = preview(Request(folder / "g.json", (), "disbatch", None, {}, app, folder / "sweeps"))
    assert "\nmodule load cuda/12.4\ncommand -v gptopt > /dev/null || PATH=" in text
    assert not (folder / "sweeps").exists()
