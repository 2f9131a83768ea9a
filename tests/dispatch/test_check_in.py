"""Slots that do not come up: the driver ends by itself, says why in the words of what failed, and no run is counted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_opt.dispatch.backends import check_in
from gpt_opt.dispatch.backends.disbatch import words_of_parts
from gpt_opt.dispatch.driver import drive
from gpt_opt.dispatch.slot import slot as run_one
from gpt_opt.dispatch.slot.gpus import Lease
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.errors import RunFailed
from gpt_opt.records import stop_requests as control
from gpt_opt.records.attempts import read_history
from gpt_opt.records.claim import acquire
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.sweep_dir import Shape, Submission, Sweep, SweepRun, create


def one_run(folder: Path, cwd: Path) -> Sweep:
    shape = Shape({"gpus_per_run": 0}, 1)
    submission = Submission("s", "s.json", (), "local", (shape,), None, str(cwd), str(folder))
    (folder / "run_hydra.py").touch()
    (folder / "sweeps" / "s").mkdir(parents=True)
    return create(folder / "sweeps" / "s", "{}", [SweepRun(0, "0" * 12, str(folder / "out" / "r"), ())], submission)


def refused(sweep: Sweep) -> str:
    """Drives a sweep whose slots do not start, and returns what was said."""
    with pytest.raises(RunFailed, match="no slot started any run") as error:
        drive(sweep, in_job=False, slots=1)
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


@pytest.mark.parametrize(("part", "nodes", "share"), [("--engine", 0, 0), ("--engine", 4, 0.04), ("--context", 4, 1)])
def test_engines_of_few_nodes_hardly_pause(part: str, nodes: int, share: float, tmp_path: Path) -> None:
    (tmp_path / "draws.py").write_text("import random\nrandom.seed(7)\nprint([random.random(), random.random()])")
    command = f"{sys.executable}{words_of_parts(nodes)} -m draws {part}"
    first, second = json.loads(subprocess.check_output(["bash", "-c", command], cwd=tmp_path))
    draw = random.Random(7).random
    assert (first, second) == (pytest.approx(draw() * share), draw()), "whose names are drawn too"


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


def stopped_once(folder: Path) -> Sweep:
    """Makes a sweep whose run waits for a signal at its first start and fails at its second."""
    sweep = one_run(folder, folder)
    code = "import pathlib, time\nstarted = pathlib.Path('started')\nif not started.exists():\n"
    (folder / "run_hydra.py").write_text(code + "    started.touch()\n    time.sleep(60)\n")
    return sweep


def test_a_request_of_one_driver_is_not_for_another_of_the_same_process_id(tmp_path: Path) -> None:
    """As in a container, where process ids begin anew, or on a cluster that counts its jobs from 1 again."""
    sweep = stopped_once(tmp_path)
    (tmp_path / "started").touch()
    for starts in (0, 1):
        with acquire(RunPaths(sweep.root)) as driver:
            if starts == 0:
                control.drain(sweep.control, control.driver_name(0, driver.attempt))
            name = control.driver_name(0, driver.attempt)
            environment = {**os.environ, run_one.SESSION: "local-7", run_one.DRIVER: name}
            run_one.Slot(sweep, environment).execute(sweep.runs)
        assert len(read_history(sweep.attempts(sweep.runs[0])).attempts) == starts


def test_a_signal_to_a_slot_that_just_starts_a_run_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = stopped_once(tmp_path)

    def signal_comes(*_: object) -> Lease:
        signal.raise_signal(signal.SIGTERM)
        return Lease((), ())

    monkeypatch.setattr(run_one, "lease", signal_comes)
    began = time.monotonic()
    assert not run_one.Slot(sweep, os.environ).execute(sweep.runs)
    assert time.monotonic() - began < 20
    assert [item.cause for item in read_history(sweep.attempts(sweep.runs[0])).attempts] == ["stopped"]
