"""The code of an application: which files of its repository it is, and what lies beside them."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from gpt_opt.app.code import FOLDER, beside, code_of, files_of, import_roots
from gpt_opt.dispatch import snapshot
from gpt_opt.records.code import Manifest


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    files = ["train.py", "conf/config.yaml", ".project-root", "data/.gitkeep", "assets/logo.png", "run.sh"]
    others = ["new.py", "data/big.bin", "ignored.py", "checkpoints/last.pt", "sweeps/x/1/plan.jsonl", "conf/.hidden"]
    others += [".env", "runs/lr=1-0123456789ab/state.json", "runs/lr=1-0123456789ab/.hydra/config.yaml"]
    for name in [*files, *others]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "run.sh").chmod(0o755)
    (root / ".gitignore").write_text("ignored.py\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", *files, ".gitignore"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    return root


TRACKED = {".gitignore", ".project-root", "assets/logo.png", "conf/config.yaml", "data/.gitkeep", "run.sh", "train.py"}


def test_code_is_what_git_tracks_and_what_looks_like_it(repository: Path) -> None:
    assert set(files_of(repository)) == {*TRACKED, "new.py"}
    found = beside(repository, files_of(repository), [repository / "sweeps"])
    assert set(found) == {"data/big.bin", "ignored.py", "checkpoints", ".env", "runs", ".git", "conf/.hidden"}


def test_without_git_code_is_what_looks_like_it(tmp_path: Path) -> None:
    for name in ("train.py", "conf/a.yaml", ".venv/lib/x.py", "env/x.py", "weights.bin", "outputs/run/config.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / ".project-root").touch()  # by which rootutils would find the real repository, and import from that
    names = files_of(tmp_path)
    assert set(names) == {"train.py", "conf/a.yaml"}
    assert set(beside(tmp_path, names, [])) == {"env", "weights.bin", "outputs", ".project-root"}


def test_a_snapshot_has_the_repository_and_links_to_what_lies_beside(repository: Path) -> None:
    sweeps = repository / "sweeps"
    taken = snapshot.take(sweeps, repository, repository, [], FOLDER)
    code = taken / FOLDER
    assert (taken / "gpt_opt" / "run" / "supervise.py").is_file()
    assert (code / "train.py").read_text() == "train.py"
    assert (code / "data" / "big.bin").resolve() == repository / "data" / "big.bin"
    assert (code / "checkpoints").resolve() == repository / "checkpoints"
    assert not (code / "sweeps").exists()
    assert os.access(code / "run.sh", os.X_OK)
    assert not (code / "train.py").stat().st_mode & stat.S_IWUSR
    (code / "logs").mkdir()  # as an application does that writes beside its code
    manifest = Manifest.read(taken)
    assert manifest is not None
    assert (manifest.code_sha256, manifest.linked) == (code_of(repository).sha256, ())
    (repository / "results").mkdir()
    assert snapshot.take(sweeps, repository, repository, [], FOLDER) == taken  # a folder of results is no code
    (repository / "train.py").write_text("edited")
    assert snapshot.take(sweeps, repository, repository, [], FOLDER) != taken
    assert (code / "train.py").read_text() == "train.py"


def test_packages_that_are_installed_from_the_repository_are_imported_from_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train.py", "src/its_package/__init__.py", "src/its_package/deep/model.py", "other/json.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert import_roots(tmp_path, files_of(tmp_path)) == ()
    monkeypatch.syspath_prepend(tmp_path / "src")  # what `pip install -e .` and PYTHONPATH come to
    taken = snapshot.take(tmp_path / "sweeps", tmp_path, tmp_path, [], FOLDER)
    assert Manifest.read(taken).import_roots == (f"{FOLDER}/src",)  # type: ignore[union-attr]
