"""What submit.sh answers to a command line, up to the call of sbatch or gptopt."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gpt_opt.errors import SweepError
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.planner import Planner
from tests.conftest import CONFIG_DIR, ROOT

SCRIPT = ROOT / "slurm_scripts" / "submit.sh"


def answer(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Calls the script where sbatch and gptopt print what they are called with."""
    (commands := folder / "bin").mkdir(exist_ok=True)
    for name in ("sbatch", "gptopt"):
        (program := commands / name).write_text(f'#!/bin/bash\nprintf "%s " {name} "$@"\n')
        program.chmod(0o700)
    own = {"PATH": f"{commands}:/usr/bin:/bin", "GPTOPT_ROOT": str(folder)} | environment
    (folder / "run_hydra.py").touch()
    (folder / "slurm_scripts").mkdir(exist_ok=True)
    (folder / "slurm_scripts" / "environment.sh").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run(
        [SCRIPT, *arguments], cwd=folder, env=kept | own, capture_output=True, text=True, timeout=20, check=False
    )
    return done.returncode, done.stdout, done.stderr


FORM = "; the form is: sbatch [sbatch options] slurm_scripts/submit.sh {} [overrides]"


@pytest.mark.parametrize("job", [{}, {"SLURM_JOB_ID": "7"}])
@pytest.mark.parametrize(
    ("arguments", "word", "sweep"),
    [
        (["scripts/x.sh", "grid.json"], "scripts/x.sh", "grid.json"),
        (["-p", "gpu", "train.py", "grid.json", "seed=1"], "train.py", "grid.json"),
        (["--exclusive", "x.sh", "grid.json"], "x.sh", "grid.json"),
        (["--mem=4G", "x", "grid.json"], "x", "grid.json"),
        (["grid.yaml"], "grid.yaml", "SWEEP.json"),
        (["seed=1", "grid.json"], "seed=1", "grid.json"),
        (["-n", "2"], "nothing", "SWEEP.json"),
        ([], "nothing", "SWEEP.json"),
    ],
)
def test_what_stands_in_the_place_of_the_sweep_file_is_refused_with_our_form(
    arguments: list[str], word: str, sweep: str, job: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "grid.json").write_text("{}")
    code, out, error = answer(tmp_path, *arguments, **job)
    said = f"submit.sh: a sweep file (.json) comes after the options of sbatch, but {word} does"
    assert (code, out, error) == (2, "", said + FORM.format(sweep) + "\n")


def test_options_and_overrides_go_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text("{}")
    code, out, _ = answer(tmp_path, "-p", "gpu", "--exclusive", "--comment=x.json", "grid.json", "seed=1")
    assert code == 0
    assert out.endswith(
        f"sbatch -p gpu --exclusive --comment=x.json {tmp_path}/slurm_scripts/submit.sh grid.json seed=1 "
    )
    assert answer(tmp_path, "grid.json", "seed=1", SLURM_JOB_ID="7")[1] == "gptopt drive grid.json seed=1 "


def test_runs_that_need_different_allocations_are_refused_before_one_waits(tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text("{}")
    answer(tmp_path, "grid.json")  # makes the commands
    gptopt = tmp_path / "bin" / "gptopt"
    gptopt.write_text("#!/bin/bash\nfor shape in 0 1; do echo exec gptopt drive /sweeps/grid/1 --shape $shape; done")
    done = subprocess.run(
        [SCRIPT, "grid.json", "seed=1"],
        cwd=tmp_path,
        env={"PATH": f"{gptopt.parent}:/usr/bin:/bin", "GPTOPT_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "need different resources" in done.stderr
    assert done.stderr.endswith("an allocation for each: gptopt submit grid.json seed=1\n")


def test_a_warning_that_comes_before_gptopt_listens_does_not_end_the_job(tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text("{}")
    (tmp_path / "slurm_scripts").mkdir()
    (tmp_path / "slurm_scripts" / "environment.sh").write_text("kill -USR2 $$")
    assert answer(tmp_path, "grid.json", SLURM_JOB_ID="7")[:2] == (0, "gptopt drive grid.json ")


def test_a_file_that_is_not_there_and_options_after_it_are_refused(tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text("{}")
    assert "no.json must be a sweep file, but is neither in" in answer(tmp_path, "no.json")[2]
    assert "but --mem=4G comes after it" in answer(tmp_path, "grid.json", "--mem=4G")[2]


@pytest.mark.parametrize(
    ("file", "extra", "says"),
    [
        (
            "scripts/x.sh",
            ["grid.json"],
            "x.sh: must be a sweep file (.json), but is another\n      the form is: grid.json",
        ),
        ("grid.yaml", [], "grid.yaml: must be a sweep file (.json), but is another\n      the form is: SWEEP.json"),
        ("grid.json", ["seed=1", "x.sh"], "x.sh: after the sweep file come overrides (key=value), but this is a file"),
        ("grid.json", ["more.json"], "more.json: after the sweep file come overrides (key=value), but this is a file"),
    ],
)
def test_gptopt_says_the_same(file: str, extra: list[str], says: str) -> None:
    with pytest.raises(SweepError) as error:
        Planner(own_app(CONFIG_DIR)).plan(Path(file), extra)
    assert says in str(error.value)
    assert len(error.value.problems) == 1
