"""The code snapshot of a submission: what is in it, that it stays, and that it gives the ids of the checkout."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gpt_opt.app.code import FOLDER
from gpt_opt.dispatch import snapshot
from gpt_opt.dispatch.snapshot import code_root, has_changed, import_path, link, take
from gpt_opt.errors import GptOptError
from gpt_opt.records.code import Code, Manifest, code_sha256, other_code, this_code
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.program import Program
from gpt_opt.records.sweep_dir import Shape, Submission, Sweep
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small repository in the shape of the project."""
    folder = tmp_path / "project"
    for name, text in {
        "gpt_opt/__init__.py": "",
        "gpt_opt/table.py": "WIDTH = 1\n",
        "gpt_opt/weights/tiny.bin": "weights",
        "hydra_conf/config.yaml": "seed: 0\n",
        "hydra_plugins/mine/plugin.py": "",
        "run_hydra.py": "print('run')\n",
        "analysis/load.py": "",
        "tests/test_all.py": "",
        "mine.py": "import helper\n",
        "helper.py": "VALUE = 1\n",
        "package/__init__.py": "",
        "package/words.txt": "words",
        "notes.txt": "no module",
        ".gitignore": "__pycache__\nignored*\n",
    }.items():
        write(folder / name, text)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "x")
    write(folder / "hydra_conf/exp/new.yaml", "seed: 1\n")  # git does not know it yet
    write(folder / "gpt_opt/__pycache__/table.pyc", "x")
    write(folder / "ignored.py", "")
    return folder


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def taken(project: Path, cwd: Path | None = None, targets: Sequence[str] = ()) -> Path:
    return take(project.parent / "sweeps", project, cwd or project, targets)


def names(folder: Path) -> set[str]:
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}
    return {name for name in found if "__pycache__" not in name} - {"manifest.json", "uncommitted.diff"}


def test_what_jobs_import_is_kept_and_nothing_else(project: Path) -> None:
    folder = taken(project)
    assert names(folder) == {
        "gpt_opt/__init__.py",
        "gpt_opt/table.py",
        "gpt_opt/weights/tiny.bin",
        "hydra_conf/config.yaml",
        "hydra_conf/exp/new.yaml",
        "hydra_plugins/mine/plugin.py",
        "run_hydra.py",
        "mine.py",
        "helper.py",
        "package/__init__.py",
        "package/words.txt",
    }
    assert folder.parent == project.parent / "sweeps" / ".code"
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert (manifest.files, manifest.dirty, len(str(manifest.commit))) == (11, True, 40)
    assert manifest.bytes == sum((folder / name).stat().st_size for name in names(folder))
    assert manifest.code_sha256 == code_sha256(project) == code_sha256(folder)


def test_it_is_read_only_and_its_modules_are_compiled(project: Path) -> None:
    folder = taken(project)
    assert {path.stat().st_mode & 0o222 for path in [folder, *folder.rglob("*")]} == {0}
    code = "import sys; sys.dont_write_bytecode = True; import gpt_opt.table as t; print(t.__cached__)"
    done = subprocess.run(
        [sys.executable, "-v", "-c", code], cwd="/", env={"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert f"matches {folder}/gpt_opt/table.py" in done.stderr, "what was compiled is used"


def test_equal_code_is_kept_once_and_a_change_makes_another(project: Path) -> None:
    first = taken(project)
    assert taken(project) == first
    write(project / "notes.txt", "changed")
    assert taken(project) == first, "no module"
    write(project / "mine.py", "changed = True\n")  # not committed
    second = taken(project)
    assert second != first
    assert (second / "mine.py").read_text() == "changed = True\n"
    assert (first / "mine.py").read_text() == "import helper\n"
    assert "+changed = True" in Manifest.diff(second).read_text()
    assert sorted(path.name for path in first.parent.iterdir()) == sorted([first.name, second.name])
    (project / "helper.py").unlink()  # deleted, and git still lists it
    assert "helper.py" not in names(taken(project))


def test_one_that_was_cut_short_or_edited_is_made_anew(project: Path) -> None:
    folder = taken(project)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    (folder / "gpt_opt" / "table.py").write_text("")
    assert taken(project) == folder
    assert (folder / "gpt_opt" / "table.py").read_text() == "WIDTH = 1\n"
    (folder.parent / f".new-{folder.name}-{os.getpid()}").mkdir()  # of a process of before that was killed
    (folder / "manifest.json").unlink()
    assert taken(project) == folder
    assert Manifest.read(folder) is not None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_large_file_is_linked_and_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshot, "MAX_FILE_BYTES", 100)
    file = write(project / "package" / "table.bin", "x" * 101)
    git(project, "add", ".")
    with caplog.at_level(logging.WARNING):
        folder = taken(project)
    assert (folder / "package" / "table.bin").readlink() == file
    assert str(file) in caplog.text
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.linked == ("package/table.bin",)


def test_modules_of_the_folder_that_is_submitted_in(project: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "work"
    write(cwd / "src" / "own.py", "")
    write(cwd / "data.jsonl", "{}")
    write(cwd / "outputs" / "x.bin", "")
    git(cwd, "init", "-q")
    git(cwd, "add", ".")
    assert names(taken(project, cwd)) - names(taken(project)) == {"cwd/src/own.py"}


def test_without_git_what_targets_reach_is_kept_and_comes_first_on_the_path(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(project / ".git")
    cwd, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    write(cwd / "alone.py", "import far.deep\n")
    write(cwd / "unused.py", "")
    write(cwd / "space" / "inner.py", "")
    write(cwd / "space" / "data.csv", "")
    for name in ("far/__init__.py", "far/deep.py", "far/late.py", "far/words.txt"):
        write(elsewhere / name, "")
    monkeypatch.setenv("PYTHONPATH", f"{cwd}:{tmp_path / 'empty'}:")
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.syspath_prepend(str(cwd))
    folder = taken(project, cwd, ["alone.build", "space.inner.Name", "torch.optim.AdamW"])
    own = names(folder) - {"mine.py"}
    far = {f"paths/2/far/{name}" for name in ("__init__.py", "deep.py", "late.py", "words.txt")}
    assert {name for name in own if "/" in name and name[0] in "cp"} == {"cwd/alone.py", "cwd/space/inner.py", *far}
    assert "gpt_opt/table.py" in own
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert (manifest.commit, manifest.import_roots) == (None, ("cwd", "paths/2"))
    sweep, submission = submitted(project, folder)
    path = import_path(sweep, submission, {"PYTHONPATH": "/a::/b"})["PYTHONPATH"]
    assert path == f"{folder}:{folder}/cwd:{folder}/paths/2:/a::/b"


def submitted(project: Path, folder: Path) -> tuple[Sweep, Submission]:
    sweep = Sweep(project.parent / "sweeps" / "beta" / "1")
    sweep.root.mkdir(parents=True)
    link(sweep, folder)
    return sweep, Submission(
        "beta", "beta.json", (), "local", (Shape({}, 1),), None, str(project), str(project), snapshot=True
    )


def test_folders_of_an_application_on_the_path_of_a_job_are_those_of_the_snapshot(project: Path) -> None:
    (project / "src").mkdir()
    (project / "src" / "mine.py").touch()
    folder = take(project.parent / "sweeps", project, project, [], FOLDER)
    sweep, submission = submitted(project, folder)
    program = Program(file="src/mine.py", folder=FOLDER)
    path = import_path(sweep, replace(submission, program=program), {"PYTHONPATH": f"{project}/src:/a:."})["PYTHONPATH"]
    code = folder / FOLDER
    assert path == f"{folder}:{code / 'src'}:{code}:{project}/src:/a:."


def test_the_link_of_a_sweep_moves_with_the_folder_of_sweeps(project: Path, tmp_path: Path) -> None:
    folder = taken(project)
    sweep, submission = submitted(project, folder)
    assert str(sweep.code.readlink()) == f"../../.code/{folder.name}"
    assert code_root(sweep, submission) == folder
    (tmp_path / "sweeps").rename(tmp_path / "moved")
    moved = Sweep(tmp_path / "moved" / "beta" / "1")
    assert code_root(moved, submission) == tmp_path / "moved" / ".code" / folder.name
    with pytest.raises(GptOptError, match=r"is not there; gptopt submit beta\.json takes the code of now"):
        code_root(sweep, submission)


def test_a_sweep_knows_whether_the_code_of_now_is_its_own(project: Path, tmp_path: Path) -> None:
    sweep, submission = submitted(project, taken(project))
    assert not has_changed(sweep, submission)
    write(project / "hydra_conf" / "config.yaml", "seed: 2\n")
    assert has_changed(sweep, submission)
    away = tmp_path / "away"
    away.mkdir()
    (linked := tmp_path / "linked").symlink_to(away)
    through = Sweep(linked / "1")
    through.root.mkdir()
    link(through, taken(project))
    assert code_root(through, submission) == taken(project), "a folder above is a link itself"


def test_the_code_of_a_result_is_told_where_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "gpt_opt").mkdir()
    now = this_code()
    assert now.sha256 == code_sha256(ROOT)
    old = Code("a", str(tmp_path), "c" * 40, True, "2020-01-01T00:00:00.000+00:00")
    clean = Code("b", None, "d" * 40, False, "2020-01-01T00:00:00.000+00:00")
    kept, committed = other_code([now, None, old, old, clean])
    assert kept.startswith("2 done with other code (")
    assert kept.endswith(f" days ago); see diff -r -x __pycache__ {os.path.relpath(tmp_path)}/gpt_opt ./gpt_opt")
    assert committed.endswith(" days ago); see git -C . diff dddddddddddd -- gpt_opt run_hydra.py")
    assert other_code([now, None]) == []


def test_a_task_line_that_is_run_by_hand_becomes_the_gptopt_of_the_snapshot(project: Path) -> None:
    write(project / "gpt_opt" / "cli" / "__init__.py", "")
    write(project / "gpt_opt" / "cli" / "__main__.py", "import os, sys\nprint(os.getpid(), __file__, *sys.argv[1:])\n")
    sweep, submission = submitted(project, folder := taken(project))
    write_text(sweep.submission_file, to_json(asdict(submission)))
    command = [Path(sys.executable).with_name("gptopt"), "exec", sweep.root, "0"]
    # The current directory has a package of that name too, as a checkout has.
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True)
    assert process.communicate()[0] == f"{process.pid} {folder}/gpt_opt/cli/__main__.py exec {sweep.root} 0\n"
    command[1:] = ["drive", sweep.root, "--slots", "2"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.stdout.endswith(f" drive {sweep.root} --slots 2\n")


PLAN = "from gpt_opt.cli import main; raise SystemExit(main())"
INPUTS = """
import json
from gpt_opt.config.inputs import inputs_of
print(json.dumps(inputs_of({"x": {"_target_": "builder.build"}, "model": {"archive": "embedded"}})))
"""


def test_a_snapshot_of_the_checkout_gives_the_ids_and_inputs_of_the_checkout(tmp_path: Path) -> None:
    write(tmp_path / "builder.py", "from gpt_opt.training.data import build_pydoc as build\n")
    base = {"data.dataset._target_": "builder.build", "optimizer": "rmsprop"}
    file = write(tmp_path / "sweep.json", json.dumps({"base": base, "grid": {"loss.beta": [0.1, 0.2]}}))
    before = os.environ.get("PYTHONPATH")
    sys.path.insert(0, str(tmp_path))
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        folder = take(tmp_path / "sweeps", ROOT, tmp_path, ["builder.build"])
    finally:
        sys.path.remove(str(tmp_path))
        del os.environ["PYTHONPATH"]
        os.environ.update({} if before is None else {"PYTHONPATH": before})
    assert (folder / "cwd" / "builder.py").is_file()
    assert (folder / "gpt_opt" / "training" / "models" / "tiny_gpt2" / "model.safetensors").is_file()
    items = []
    for path in (f"{ROOT}:{tmp_path}", f"{folder}:{folder}/cwd"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", PLAN, "plan", str(file), "--json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert not done.stderr
        items.append(json.loads(done.stdout)["items"])
    assert items[0] == items[1]
    found = [
        json.loads(
            subprocess.check_output([sys.executable, "-P", "-c", INPUTS], env={**os.environ, "PYTHONPATH": path})
        )
        for path in (f"{ROOT}:{tmp_path}", f"{folder}:{folder}/cwd")
    ]
    digests = [{name: item["sha256"] for name, item in each.items()} for each in found]
    assert digests[0] == digests[1]
    assert set(digests[0]) == {"builder", "model.archive"}
    assert found[1]["builder"]["path"] == str(folder / "cwd" / "builder.py")


def test_the_snapshot_of_a_faster_submission_stays(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs may be importing from it."""
    write_one, found, others = snapshot._write, list[Path](), list[threading.Thread]()

    def slowly(*arguments: object) -> None:
        others.append(threading.Thread(target=lambda: found.append(taken(project))))
        others[-1].start()
        others[-1].join(0.3)
        assert not found, "the other one waits"
        write_one(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot, "_write", slowly)
    folder = taken(project)
    before = folder.stat().st_ino
    for other in others:
        other.join()
    assert (found, len(others)) == ([folder], 1), "it is written once"
    assert folder.stat().st_ino == before
    assert [item.name for item in folder.parent.iterdir()] == [folder.name], "nothing is left of the slower one"
