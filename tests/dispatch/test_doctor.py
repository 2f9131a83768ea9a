"""What the doctor finds on this machine, and on folders with something wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_opt.cli.views.doctor import as_record, as_text
from gpt_opt.dispatch import doctor
from gpt_opt.dispatch.doctor import Check, all_well, checks, file_system


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, and a path without Slurm."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_slurm_sweeps_run_on_this_machine(no_slurm: Path) -> None:
    found = by_name(checks())
    assert found["Slurm"].ok is None
    assert "--backend local" in found["Slurm"].advice
    for name in ("Python", "packages", "torch", "gptopt, disBatch"):
        assert found[name].ok, found[name]
    assert {path.name for path in no_slurm.iterdir()} == {"bin"}, "it cleans up"


def test_torch_is_not_imported(no_slurm: Path) -> None:
    code = "import sys; from gpt_opt.dispatch.doctor import checks; checks(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_commands_that_are_missing_are_named(no_slurm: Path) -> None:
    for name in doctor.COMMANDS:
        if name not in ("sacct", "scontrol"):
            (no_slurm / "bin" / name).symlink_to("/bin/false")
    found = by_name(checks())
    assert found["Slurm"].ok is False
    assert found["Slurm"].found == "scontrol, sacct not on the path"
    assert found["slurmctld"].ok is False


def test_links_locks_and_clock_of_this_folder_work(no_slurm: Path) -> None:
    (no_slurm / "outputs").mkdir()
    found = by_name(checks())
    assert found["hard links"].ok
    assert found["file locks"].ok
    assert found["clock"].ok
    assert found[f"shared: {no_slurm / 'outputs'}"].ok, "one machine has to share nothing"
    assert list((no_slurm / "outputs").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_fails(no_slurm: Path) -> None:
    (no_slurm / "outputs").symlink_to("/proc/self")
    found = [check for check in checks() if check.name == "writable: /proc/" + str(os.getpid())]
    assert found[0].ok is False
    assert found[0].advice


MOUNTS = {"/": "ext4", "/home": "nfs4", "/home/me/my scratch": "lustre", "/home/me/my scratch/tmp": "tmpfs"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/usr", "ext4"),
        ("/home/me", "nfs4"),
        ("/homes", "ext4"),
        ("/home/me/my scratch/outputs", "lustre"),
        ("/home/me/my scratch/tmp", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS)[1] == kind


def test_text_and_record() -> None:
    found = [
        Check("Python", True, "3.11.7"),
        Check("Slurm", None, "not here", "use --backend local"),
        Check("clock", False, "+90 s off", "set it"),
    ]
    assert as_text(found) == (
        "ok    Python  3.11.7\n-     Slurm   not here\n      use --backend local\n"
        "FAIL  clock   +90 s off\n      set it\n\n1 of 3 checks failed"
    )
    assert json.loads(json.dumps(as_record(found)))["items"][2]["ok"] is False
    assert not all_well(found)
    assert all_well(found[:2])
    assert as_text(found[:2]).endswith("nothing needed fails")


def test_every_check_that_does_not_work_says_what_to_do(no_slurm: Path) -> None:
    assert [check.name for check in checks() if not check.ok and not check.advice] == []
