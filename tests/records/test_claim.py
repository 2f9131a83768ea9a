"""Claims: one owner at a time, taken over only when the owner is gone."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from gpt_opt.errors import ClaimLost, GptOptError
from gpt_opt.records import io
from gpt_opt.records.claim import STALE_AFTER_S, RunHeld, acquire, read_claim
from gpt_opt.records.process import Owner, this_process
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, write_state
from gpt_opt.records.step_log import MetricsLog
from gpt_opt.records.summary import commit_summary


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path)


def dead_owner_claim(paths: RunPaths) -> None:
    """Leaves the claim of a process that was killed with -9."""
    code = f"""
import os, signal, sys
from pathlib import Path
from gpt_opt.records.claim import acquire
from gpt_opt.records.run_dir import RunPaths
acquire(RunPaths(Path({str(paths.root)!r})))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9


def test_the_second_of_two_is_told_who_holds_the_run(paths: RunPaths) -> None:
    with acquire(paths), pytest.raises(RunHeld, match=f"process {os.getpid()} on "):
        acquire(paths)


def test_a_released_claim_can_be_taken(paths: RunPaths) -> None:
    with acquire(paths) as first:
        assert first.attempt == 1
    with acquire(paths) as second:
        assert second.attempt == 2


def test_the_claim_of_a_killed_process_is_over_at_once(paths: RunPaths) -> None:
    dead_owner_claim(paths)
    claim = read_claim(paths)
    assert claim is not None
    assert not claim.released
    assert claim.is_over()
    assert acquire(paths).attempt == 2


def test_the_claim_of_another_machine_is_over_after_the_limit(paths: RunPaths) -> None:
    acquire(paths)
    file = paths.claims / "0001.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "machine": "elsewhere"}))
    with pytest.raises(RunHeld):
        acquire(paths)
    old = time.time() - STALE_AFTER_S - 1
    os.utime(file, (old, old))
    assert acquire(paths).attempt == 2


Fence = Callable[[], None]


def write_own_state(paths: RunPaths, attempt: int, fence: Fence) -> None:
    write_state(paths, RunState("abc", State.RUNNING, attempt), fence)


def write_own_summary(paths: RunPaths, attempt: int, fence: Fence) -> None:
    assert commit_summary(paths, {"attempt": attempt}, fence)


def write_own_metrics(paths: RunPaths, attempt: int, fence: Fence) -> None:
    MetricsLog(paths.metrics, fence).append(7, {"attempt": attempt})


@pytest.mark.parametrize("write", [write_own_state, write_own_summary, write_own_metrics])
def test_nothing_lasts_of_a_process_that_slept_after_its_last_look_at_its_claim(
    paths: RunPaths,
    write: Callable[[RunPaths, int, Fence], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = acquire(paths)
    looks = 0

    def looks_and_sleeps() -> None:
        nonlocal looks
        first.require()
        looks += 1
        if looks == 2:
            old = time.time() - STALE_AFTER_S - 1
            os.utime(paths.claims / "0001.json", (old, old))
            second = acquire(paths)
            MetricsLog(paths.metrics).keep_until(-1)
            with monkeypatch.context() as of_another_process:
                of_another_process.setattr(io, "_temporary", lambda path: path.with_name(f".{path.name}.2.tmp"))
                write(paths, 2, second.require)

    with pytest.raises(ClaimLost) if write is not write_own_metrics else nullcontext():
        write(paths, 1, looks_and_sleeps)
    (lasting,) = (file.read_text() for file in (paths.state, paths.summary, paths.metrics) if file.exists())
    assert looks == 2, "the last"
    assert json.loads(lasting)["attempt"] == 2


def test_who_worked_in_a_directory_that_was_deleted_may_not_write_into_the_new_one(paths: RunPaths) -> None:
    first = acquire(paths)
    shutil.rmtree(paths.claims)
    with pytest.raises(ClaimLost, match="was deleted while it was being worked on"):
        first.require()
    acquire(paths)
    file = paths.claims / "0001.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pid": 1}))
    with pytest.raises(ClaimLost, match="was deleted while it was being worked on"):
        first.require()


def test_a_claim_clears_away_what_is_half_written_and_no_folder_of_the_user(paths: RunPaths) -> None:
    (paths.root / ".mine.tmp").mkdir()
    (paths.root / ".state.json.host.1.tmp").touch()
    acquire(paths)
    assert {path.name for path in paths.root.iterdir()} == {".mine.tmp", "claims"}


def test_a_replaced_owner_may_not_write(paths: RunPaths) -> None:
    with acquire(paths) as first:
        first.require()
        old = time.time() - STALE_AFTER_S - 1
        os.utime(paths.claims / "0001.json", (old, old))
        second = acquire(paths)
        with pytest.raises(ClaimLost):
            first.require()
        second.require()
    # Leaving the block must not have released the claim of its successor.
    with pytest.raises(RunHeld):
        acquire(paths)


def test_the_heartbeat_touches_the_claim(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_opt.records.claim.HEARTBEAT_S", 0.01)
    with acquire(paths):
        file = paths.claims / "0001.json"
        os.utime(file, (0, 0))
        deadline = time.time() + 5
        while file.stat().st_mtime == 0 and time.time() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def _contend(root: str, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        claim = acquire(RunPaths(Path(root)))
    except RunHeld:
        results.put(0)  # type: ignore[attr-defined]
    else:
        results.put(claim.attempt)  # type: ignore[attr-defined]
    barrier.wait()  # type: ignore[attr-defined]


def test_of_many_at_once_exactly_one_wins(paths: RunPaths) -> None:
    dead_owner_claim(paths)  # so that all of them see a claim to take over
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(6), context.Queue()
    workers = [context.Process(target=_contend, args=(str(paths.root), barrier, results)) for _ in range(6)]
    for worker in workers:
        worker.start()
    outcomes = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert outcomes == [0, 0, 0, 0, 0, 2]


def test_a_foreign_claim_file_is_an_error_that_names_it(paths: RunPaths) -> None:
    paths.claims.mkdir()
    (paths.claims / "0001.json").write_text("not json")
    with pytest.raises(GptOptError, match=r"0001\.json: must be a claim"):
        acquire(paths)


def test_a_file_beside_the_claims_is_none(paths: RunPaths) -> None:
    with acquire(paths):
        (paths.claims / "0012.txt").touch()
        (paths.claims / "²").touch()
        claim = read_claim(paths)
    assert claim is not None
    assert claim.attempt == 1


def test_a_reused_pid_is_not_the_old_process() -> None:
    me = this_process()
    assert not me.is_dead()
    assert Owner(me.host, me.machine, me.pid, me.pid_start - 1).is_dead()
    assert not Owner(me.host, "another machine", me.pid, me.pid_start - 1).is_dead()
