"""The texts that sbatch and disBatch get, word for word."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.dispatch.backends.disbatch import task_text
from gpt_opt.dispatch.backends.limits import check_backend
from gpt_opt.dispatch.backends.plain_names import make_links, plain, program, require_links
from gpt_opt.dispatch.backends.resources import groups
from gpt_opt.dispatch.backends.sbatch_script import environment_lines, sbatch_text
from gpt_opt.dispatch.backends.submitit import text
from gpt_opt.errors import ConfigError
from gpt_opt.records.program import Program
from gpt_opt.records.sweep_dir import Shape, Submission, Sweep, SweepRun
from gpt_opt.sweep.model import Resources

HOME = environment_lines("/home/me/gpt-opt", "/venv/bin", Program())
ELSEWHERE = environment_lines("/r", "/b", Program())
SWEEP = Sweep(Path("/lab/sweeps/beta/3"))
RUNS = [SweepRun(index, f"{index:012x}", "/lab/outputs/x", (f"loss.beta=$(touch {index})",)) for index in range(3)]


def options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_the_batch_script_word_for_word() -> None:
    resources = Resources(
        cpus_per_run=4, mem_gb=10, time_min=240, partition="gpu", qos="low", sbatch=("--reservation=lab", "--nice")
    )
    script = sbatch_text(SWEEP, resources, 8, HOME, snapshot=True)
    assert script == (
        """\
#!/bin/bash
#SBATCH --job-name=beta-3
#SBATCH --comment=/lab/sweeps/beta/3
#SBATCH --output=/lab/sweeps/beta/3/logs/driver-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2560M
#SBATCH --gpus-per-task=1
#SBATCH --time=240
#SBATCH --partition=gpu
#SBATCH --qos=low
#SBATCH --reservation=lab
#SBATCH --nice
GPTOPT_ROOT=/home/me/gpt-opt
. /home/me/gpt-opt/slurm_scripts/environment.sh
PATH=$PATH:/venv/bin
export PYTHONPATH=/lab/sweeps/beta/3/code${PYTHONPATH:+:$PYTHONPATH}
# exec: the warning before the time limit goes to this process.
exec gptopt drive /lab/sweeps/beta/3
"""
    )
    live = sbatch_text(SWEEP, resources, 8, HOME)
    assert set(script.splitlines()) - set(live.splitlines()) == {
        "export PYTHONPATH=/lab/sweeps/beta/3/code${PYTHONPATH:+:$PYTHONPATH}"
    }


def test_the_job_of_one_of_several_shapes_says_which() -> None:
    script = sbatch_text(SWEEP.part(1), Resources(gpus_per_run=2), 3, ELSEWHERE)
    said = options(script)
    assert {"--job-name=beta-3.1", "--comment=/lab/sweeps/beta/3:shape-1", "--gpus-per-task=2"} <= set(said)
    assert script.endswith("\nexec gptopt drive /lab/sweeps/beta/3 --shape 1\n")


def test_what_is_not_said_is_not_asked_for() -> None:
    said = options(sbatch_text(SWEEP, Resources(), 2, ELSEWHERE))
    assert not [option for option in said if option.startswith(("--mem", "--time", "--partition", "--account"))]
    assert {"--ntasks=2", "--cpus-per-task=1", "--gpus-per-task=1"} <= set(said)


@pytest.mark.parametrize(("gpus", "said"), [(0, None), (1, "--gpus-per-task=1"), (2, "--gpus-per-task=2")])
def test_gpus_of_a_run(gpus: int, said: str | None) -> None:
    found = [o for o in options(sbatch_text(SWEEP, Resources(gpus_per_run=gpus), 2, ELSEWHERE)) if "gpu" in o]
    assert found == ([] if said is None else [said])


def test_runs_that_share_a_gpu_share_a_task() -> None:
    said = options(sbatch_text(SWEEP, Resources(runs_per_gpu=3, cpus_per_run=2, mem_gb=4), 8, ELSEWHERE))
    assert {"--ntasks=3", "--cpus-per-task=6", "--mem-per-cpu=2048M", "--gpus-per-task=1"} <= set(said)


ODD = "my runs [ü] 50% it's $(touch X)"


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep in a folder with an odd name."""
    monkeypatch.setenv("GPTOPT_CACHE", str(tmp_path / "cache"))
    (folder := tmp_path / ODD / "sweeps" / "beta" / "3").mkdir(parents=True)
    return Sweep(folder)


def test_slurm_and_disbatch_are_told_a_plain_link_to_an_odd_folder(odd: Sweep, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    resources = Resources(sbatch=("--comment=two words", '--mail-user="a b"'))
    script = sbatch_text(odd, resources, 1, environment_lines(f"{tmp_path}/{ODD}", "/b", Program()))
    link = plain(odd).root
    said = options(script)
    assert {"--job-name=beta-3", f"--comment={link}", f"--output={link}/logs/driver-%j.out"} <= set(said)
    assert {'--comment="two words"', '--mail-user="a b"'} <= set(said)
    root = next(line for line in script.splitlines() if line.startswith("GPTOPT_ROOT="))
    assert shlex.split(root) == [f"GPTOPT_ROOT={tmp_path}/{ODD}"]
    assert f"exec gptopt drive {link}\n" in script
    tasks = task_text(odd, RUNS, Resources(runs_per_gpu=2))
    assert tasks.splitlines() == [
        f"{program('gptopt')} exec {link} 000000000000 000000000001",
        f"{program('gptopt')} exec {link} 000000000002",
    ]
    assert tasks.isascii()
    assert set(tmp_path.rglob("*")) == before, "a text is no deed"
    make_links(odd)
    make_links(odd)
    assert link.resolve() == odd.root


def test_a_plain_folder_needs_no_link(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweeps" / "beta" / "3")
    assert plain(sweep).root == sweep.root


def test_a_python_in_an_odd_folder_is_run_by_a_link_to_its_environment(
    odd: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bin_dir := odd.root / "venv" / "bin").mkdir(parents=True)
    (odd.root / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (bin_dir / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(bin_dir / "python"))
    make_links(odd)
    prefix = subprocess.run(
        [program("python"), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert Path(prefix.stdout.strip()).resolve() == odd.root / "venv"


def test_an_odd_folder_of_links_is_refused_with_advice(odd: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    require_links(odd.root)
    monkeypatch.setenv("GPTOPT_CACHE", str(odd.root))
    with pytest.raises(ConfigError, match="export GPTOPT_CACHE=FOLDER, one with a plain name that all nodes see"):
        require_links(odd.root)


def submission(resources: dict[str, Any]) -> Submission:
    return Submission("beta", "beta.json", (), "submitit", (Shape(resources, 4),), None, "/lab", "/my repo")


def test_the_script_of_submitit(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "beta" / "3")
    sweep.root.mkdir(parents=True)
    asked = {"time_min": 30, "gpus_per_run": 2, "nodes_per_run": 2, "cpus_per_run": 3, "mem_gb": 1.5, "qos": "low"}
    said = options(text(sweep, submission(asked)))
    assert {
        "--job-name=beta-3",
        f"--comment={sweep.root}",
        "--time=30",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gpus-per-node=2",
        "--cpus-per-task=3",
        "--mem=1536M",
        "--qos=low",
        "--requeue",
        "--signal=USR2@120",
    } <= set(said)


def test_submitit_gets_the_users_lines_as_given_after_ours(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "beta" / "3")
    sweep.root.mkdir(parents=True)
    own = ["--signal=USR2@30", "-A lab", "--hold", "--comment=two words"]
    script = text(sweep, submission({"time_min": 30, "sbatch": own}))
    assert options(script)[-4:] == ["--signal=USR2@30", "-A lab", "--hold", '--comment="two words"']
    commands = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert commands[0] == "export SLURM_EXPORT_ENV=ALL"
    assert commands[1:3] == ["GPTOPT_ROOT='/my repo'", ". '/my repo/slurm_scripts/environment.sh'"]
    assert script.index("#SBATCH --hold") < script.index(commands[0]), "sbatch reads no option after a command"


@pytest.mark.parametrize(
    ("resources", "backend", "slots", "says"),
    [
        (Resources(nodes_per_run=2), "disbatch", 1, "add --backend submitit"),
        (Resources(runs_per_gpu=2, gpus_per_run=2), "disbatch", 1, "gpus_per_run must be 1, but is 2"),
        (Resources(), "submitit", 1, "add --time-min MINUTES"),
        (Resources(), "disbatch", 0, "must be at least 1, but is 0"),
        (Resources(), "none", 1, "must be one of disbatch, submitit, local, but is none"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(resources: Resources, backend: str, slots: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_backend([resources], backend, slots, {})


def test_what_a_backend_can_do_is_not_refused() -> None:
    check_backend([Resources(nodes_per_run=2, time_min=5)], "submitit", None, {})
    check_backend([Resources(runs_per_gpu=2, gpus_per_run=1)], "disbatch", 4, {})
    check_backend([Resources(runs_per_gpu=2)], "local", 4, {})


def test_groups_share_a_slot() -> None:
    assert groups([0, 2, 5, 6, 9], 2) == [(0, 2), (5, 6), (9,)]
    assert groups([], 2) == []


def test_an_application_says_what_its_jobs_need() -> None:
    program = Program(folder="app-code", environment=("module load cuda", "source '/opt/my env/bin/activate'"))
    script = sbatch_text(SWEEP, Resources(), 1, environment_lines("/home/me/app", "/ven v/bin", program), snapshot=True)
    lines = script.splitlines()
    first = lines.index("module load cuda")
    assert lines[first : first + 3] == [
        "module load cuda",
        "source '/opt/my env/bin/activate'",
        "command -v gptopt > /dev/null || PATH='/ven v/bin':$PATH",
    ]
    assert "environment.sh" not in script
    assert lines[-1].startswith("exec gptopt drive ")
