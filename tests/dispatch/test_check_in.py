"""Slots that do not come up: the driver ends by itself, says why in the words of what failed, and no run is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_opt.dispatch import check_in
from gpt_opt.dispatch.drive import drive
from gpt_opt.dispatch.status import gather
from gpt_opt.dispatch.sweepdir import Submission, Sweep, SweepRun, create
from gpt_opt.errors import RunFailed


def one_run(folder: Path, cwd: Path) -> Sweep:
    submission = Submission("s", "s.json", (), "local", 1, {"gpus_per_run": 0}, None, str(cwd), str(folder))
    (folder / "run_hydra.py").touch()
    (folder / "sweeps" / "s").mkdir(parents=True)
    return create(folder / "sweeps" / "s", "{}", [SweepRun(0, "0" * 12, str(folder / "out" / "r"), ())], submission)


def refused(sweep: Sweep) -> str:
    """Drives a sweep whose slots do not start, and returns what was said."""
    with pytest.raises(RunFailed, match="no slot started any run") as error:
        drive(sweep, 1)
    assert not list((sweep.root / "attempts").iterdir()), "no run may be counted for it"
    ((node, reason),) = json.loads(sweep.lost_nodes.read_text()).items()
    assert f"({node}: {reason})" in str(error.value)
    assert f"node {node} gave no slot: {reason}" in gather(sweep).notes
    return str(reason)


def test_a_node_that_lacks_what_a_run_needs_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTNAME", "login1")  # as batch jobs have it from where they were submitted
    reason = refused(one_run(tmp_path, tmp_path / "gone"))
    assert f"the working directory must be visible on every node, but {tmp_path}/gone is not there" in reason


def test_a_slot_that_is_silent_is_waited_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_in, "CHECK_IN_S", 3.0)
    (tmp_path / "sitecustomize.py").write_text("import sys, time\n'--engine' in sys.orig_argv and time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "nothing was heard of it within 3 s" in refused(one_run(tmp_path, tmp_path))


@pytest.mark.parametrize("part", ["--engine", "--context"])
def test_what_does_not_start_is_told_in_its_own_words(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alien := tmp_path / "alien").write_bytes(b"\x7fELF of another machine")
    alien.chmod(0o700)
    start = f"import os, sys\n'{part}' in sys.orig_argv and os.execl('/bin/bash', 'bash', '-c', '{alien}')"
    (tmp_path / "sitecustomize.py").write_text(start)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert f"{alien}: cannot execute binary file: Exec format error" in refused(one_run(tmp_path, tmp_path))
