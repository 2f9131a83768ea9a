"""Provenance: what code a run was made with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from gpt_opt.records.provenance import gpus, packages
from tests.conftest import ROOT

CODE = """
from pathlib import Path
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.provenance import write_provenance
write_provenance(RunPaths(Path("run")), {"seed": 3}, {"data.dataset.path": {"path": "x", "sha256": "0"}}, 1)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of its own with the project's code in it."""
    shutil.copytree(ROOT / "gpt_opt", tmp_path / "gpt_opt", ignore=shutil.ignore_patterns("__pycache__", "tiny_gpt2"))
    (tmp_path / ".gitignore").write_text("__pycache__\nrun\n")
    (tmp_path / "run").mkdir()
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def record(repository: Path) -> dict[str, object]:
    subprocess.run([sys.executable, "-c", CODE], cwd=repository, check=True, env={"PATH": "/usr/bin:/bin"})
    found: dict[str, object] = json.loads((repository / "run" / "provenance.json").read_text())
    return found


def test_clean_code_has_a_commit_and_no_diff(repository: Path) -> None:
    found = record(repository)
    assert len(str(found["git_commit"])) == 40
    assert found["git_dirty"] is False
    assert found["seed"] == 3
    assert found["inputs"] == {"data.dataset.path": {"path": "x", "sha256": "0"}}


def test_a_change_anywhere_in_the_code_is_kept_as_a_diff(repository: Path) -> None:
    trainer = repository / "gpt_opt" / "training" / "trainer.py"
    trainer.write_text(trainer.read_text() + "# changed\n")
    assert record(repository)["git_dirty"] is True
    assert "+# changed" in (repository / "run" / "provenance.diff").read_text()


def test_a_file_that_git_does_not_know_makes_the_code_dirty(repository: Path) -> None:
    (repository / "gpt_opt" / "new.py").touch()
    assert record(repository)["git_dirty"] is True


def test_every_installed_package_has_its_version() -> None:
    assert packages() == {item.metadata["Name"]: item.version for item in reversed(list(distributions()))}
    assert list(packages()) == sorted(packages(), key=str.lower)


def test_slurms_word_for_no_gpu_is_no_gpu() -> None:
    assert gpus({"CUDA_VISIBLE_DEVICES": "0, GPU-a"}) == ["0", "GPU-a"]
    assert gpus({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}) == gpus({"CUDA_VISIBLE_DEVICES": ""}) == gpus({}) == []
