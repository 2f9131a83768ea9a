"""state.json: what a reader is told, whatever was left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_opt.records.claim import acquire
from gpt_opt.records.io import create_text, write_text
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, StateUnreadable, is_done, read_state, write_state
from tests.records.test_claim import dead_owner_claim


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path)


def test_round_trip(paths: RunPaths) -> None:
    state = RunState("abc", State.FAILED, 3, "host", 7, {"slurm_job_id": "9"}, ["0"], "a", "b", 5, 10, {"type": "X"})
    write_state(paths, state)
    assert read_state(paths) == state


def test_a_run_that_nobody_started_is_pending(paths: RunPaths) -> None:
    assert read_state(paths).state is State.PENDING


def test_running_with_a_living_owner_is_running(paths: RunPaths) -> None:
    with acquire(paths):
        write_state(paths, RunState("abc", State.RUNNING, 1))
        assert read_state(paths).state is State.RUNNING


def test_running_with_a_dead_owner_is_interrupted(paths: RunPaths) -> None:
    dead_owner_claim(paths)
    write_state(paths, RunState("abc", State.RUNNING, 1))
    assert read_state(paths).state is State.INTERRUPTED


def test_every_truncation_is_reported_as_unreadable(paths: RunPaths) -> None:
    write_state(paths, RunState("abc", State.COMPLETED, 1))
    whole = paths.state.read_bytes()
    for length in range(len(whole.rstrip()) - 1):
        paths.state.write_bytes(whole[:length])
        with pytest.raises(StateUnreadable, match=r"state\.json"):
            read_state(paths)


@pytest.mark.parametrize("text", ["[]", '{"state": "DONE", "run_id": "x"}', "{}", '"RUNNING"', "\xff"])
def test_a_foreign_file_is_unreadable(paths: RunPaths, text: str) -> None:
    paths.state.write_bytes(text.encode("latin-1"))
    with pytest.raises(StateUnreadable):
        read_state(paths)


def test_done_needs_both_the_summary_and_the_state(paths: RunPaths) -> None:
    assert not is_done(paths)
    paths.summary.write_text("{}")
    assert not is_done(paths)
    write_state(paths, RunState("abc", State.COMPLETED, 1))
    assert is_done(paths)
    paths.summary.unlink()
    assert not is_done(paths)


def test_a_write_replaces_and_a_create_does_not(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    assert create_text(file, "first")
    assert not create_text(file, "second")
    assert file.read_text() == "first"
    write_text(file, "third")
    assert file.read_text() == "third"
    assert list(tmp_path.iterdir()) == [file]


def test_unknown_fields_of_a_later_version_are_ignored(paths: RunPaths) -> None:
    write_state(paths, RunState("abc", State.FAILED, 1))
    paths.state.write_text(json.dumps({**json.loads(paths.state.read_text()), "colour": "blue"}))
    assert read_state(paths).state is State.FAILED


def test_a_run_that_an_earlier_version_calls_preempted_is_interrupted(paths: RunPaths) -> None:
    write_state(paths, RunState("abc", State.INTERRUPTED, 1, step=4))
    paths.state.write_text(json.dumps({**json.loads(paths.state.read_text()), "state": "PREEMPTED"}))
    assert read_state(paths) == RunState("abc", State.INTERRUPTED, 1, step=4)
