"""The texts that sbatch and disBatch get, word for word."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.dispatch.disbatch import program, require_plain_paths, task_text
from gpt_opt.dispatch.run_one import task_line
from gpt_opt.dispatch.scripts import check_backend, groups, sbatch_text
from gpt_opt.dispatch.submitit_jobs import text
from gpt_opt.dispatch.sweepdir import Submission, Sweep, SweepRun
from gpt_opt.errors import ConfigError, GptOptError
from gpt_opt.sweep.model import Resources

SWEEP = Sweep(Path("/lab/sweeps/beta/3"))
RUNS = [SweepRun(index, f"{index:012x}", "/lab/outputs/x", (f"loss.beta=$(touch {index})",)) for index in range(3)]


def options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_the_batch_script_word_for_word() -> None:
    resources = Resources(
        cpus_per_run=4, mem_gb=10, time_min=240, partition="gpu", qos="low", sbatch=("--reservation=lab", "--nice")
    )
    assert sbatch_text(SWEEP, resources, 8, "/home/me/gpt-opt") == (
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
# exec: the warning before the time limit goes to this process.
exec gptopt drive /lab/sweeps/beta/3
"""
    )


def test_what_is_not_said_is_not_asked_for() -> None:
    said = options(sbatch_text(SWEEP, Resources(), 2, "/r"))
    assert not [option for option in said if option.startswith(("--mem", "--time", "--partition", "--account"))]
    assert {"--ntasks=2", "--cpus-per-task=1", "--gpus-per-task=1"} <= set(said)


@pytest.mark.parametrize(("gpus", "said"), [(0, None), (1, "--gpus-per-task=1"), (2, "--gpus-per-task=2")])
def test_gpus_of_a_run(gpus: int, said: str | None) -> None:
    found = [o for o in options(sbatch_text(SWEEP, Resources(gpus_per_run=gpus), 2, "/r")) if "gpu" in o]
    assert found == ([] if said is None else [said])


def test_runs_that_share_a_gpu_share_a_task() -> None:
    said = options(sbatch_text(SWEEP, Resources(runs_per_gpu=3, cpus_per_run=2, mem_gb=4), 8, "/r"))
    assert {"--ntasks=3", "--cpus-per-task=6", "--mem-per-cpu=2048M", "--gpus-per-task=1"} <= set(said)


def test_blanks_in_paths_and_values_are_quoted() -> None:
    sweep = Sweep(Path("/my work/sweeps/beta/3"))
    script = sbatch_text(sweep, Resources(sbatch=("--comment=two words", '--mail-user="a b"')), 1, "/my repo")
    said = options(script)
    assert '--output="/my work/sweeps/beta/3/logs/driver-%j.out"' in said
    assert '--comment="two words"' in said
    assert '--mail-user="a b"' in said
    assert "GPTOPT_ROOT='/my repo'" in script
    assert ". '/my repo/slurm_scripts/environment.sh'" in script
    assert "exec gptopt drive '/my work/sweeps/beta/3'" in script


def test_a_task_line_names_the_sweep_and_runs_and_no_value() -> None:
    sweep = Sweep(Path("/my work/sweeps/beta/3"))
    assert task_line("/bin/gptopt", sweep, RUNS[:2]) == (
        "/bin/gptopt exec '/my work/sweeps/beta/3' 000000000000 000000000001"
    )
    lines = task_text(sweep, RUNS, 2).splitlines()
    assert [shlex.split(line) for line in lines] == [
        [program("gptopt"), "exec", "/my work/sweeps/beta/3", *ids]
        for ids in (["000000000000", "000000000001"], ["000000000002"])
    ]


@pytest.mark.parametrize("path", ["/wörk/sweeps/beta/3", "/a\nb/sweeps/beta/3", "/a\tb/sweeps/beta/3"])
def test_a_path_that_no_task_file_can_hold_is_refused(path: str) -> None:
    with pytest.raises(GptOptError, match="must be printable ASCII"):
        task_line("/bin/gptopt", Sweep(Path(path)), RUNS)


@pytest.mark.parametrize("name", ["my work", "a$(touch X)", "a;b", "it's", "wörk"])
def test_a_path_that_disbatch_would_break_is_refused(name: str, tmp_path: Path) -> None:
    require_plain_paths(Sweep(tmp_path / "beta" / "3"))
    with pytest.raises(GptOptError, match="a path that disBatch uses must have"):
        require_plain_paths(Sweep(tmp_path / name / "beta" / "3"))


def submission(resources: dict[str, Any]) -> Submission:
    return Submission("beta", "beta.json", (), "submitit", 4, resources, None, "/lab", "/my repo")


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
    assert commands[:2] == ["GPTOPT_ROOT='/my repo'", ". '/my repo/slurm_scripts/environment.sh'"]
    assert script.index("#SBATCH --hold") < script.index(commands[0]), "sbatch reads no option after a command"


@pytest.mark.parametrize(
    ("resources", "backend", "slots", "says"),
    [
        (Resources(nodes_per_run=2), "disbatch", 1, "add --backend submitit"),
        (Resources(runs_per_gpu=2, gpus_per_run=2), "disbatch", 1, "gpus_per_run must be 1, but is 2"),
        (Resources(), "submitit", 1, "add --time-min MINUTES"),
        (Resources(), "disbatch", 0, "must be at least 1, but is 0"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(resources: Resources, backend: str, slots: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_backend(resources, backend, slots)


def test_what_a_backend_can_do_is_not_refused() -> None:
    check_backend(Resources(nodes_per_run=2, time_min=5), "submitit", None)
    check_backend(Resources(runs_per_gpu=2, gpus_per_run=1), "disbatch", 4)
    check_backend(Resources(runs_per_gpu=2), "local", 4)


def test_groups_share_a_slot() -> None:
    assert groups([0, 2, 5, 6, 9], 2) == [(0, 2), (5, 6), (9,)]
    assert groups([], 2) == []
