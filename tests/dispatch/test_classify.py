"""What a run is, from everything that can be on disk: one state each, and one answer to whether it is due."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.load import load_runs
from gpt_opt.dispatch import slurm
from gpt_opt.dispatch.actions import cancel, open_runs, retry
from gpt_opt.dispatch.classify import STALLED_AFTER_S, BlockedBy, Classification, classify
from gpt_opt.dispatch.reconcile import Ends, reconcile
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.existing import Status, status_of
from gpt_opt.records import stop_requests
from gpt_opt.records.attempts import CAUSES, Attempt, History, note_retry
from gpt_opt.records.claim import STALE_AFTER_S, RunHeld, acquire
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.process import this_process
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import (
    RunRecord,
    RunState,
    State,
    StateUnreadable,
    current_state,
    is_done,
    read_run,
    write_state,
)
from gpt_opt.records.sweep_dir import Job, Sweep, SweepRun, submissions
from tests.dispatch.on_disk import DEAD, STARTED, attempt, make_sweep, write_run
from tests.helpers.examples import examples

WRITTEN = (None, State.PENDING, State.RUNNING, State.COMPLETED, State.FAILED, State.INTERRUPTED)
SILENCE = (None, 1.0, STALLED_AFTER_S + 15)
"""Of the process that has the run: none that may be alive, one that runs, one that is silent."""

FILES = list(itertools.product(WRITTEN, (False, True), SILENCE, (False, True)))
"""What state.json says (None: it is torn), a result or not, silence, a checkpoint or not."""

ELSEWHERE = replace(DEAD, machine="another")
NODE_FAILED = {"8": [slurm.JobState("8", "NODE_FAIL")]}


def ended(cause: str | None, times: int = 1, **more: Any) -> History:
    made = Attempt("a", STARTED, "8.0", ELSEWHERE, "n1", **{"mem_gb": 4.0, "cause": cause, **more})
    return History(tuple(replace(made, id=f"a{number}") for number in range(times)))


def histories() -> Iterator[History]:
    """Yields no attempt, and for every cause as many as are allowed, and one fewer; lost ones; and all of it reset."""
    yield History()
    yield ended(None)
    yield ended(None, times=5)
    for name, cause in CAUSES.items():
        most = cause.max_attempts or 3
        for times in {most, max(1, most - 1)}:
            yield ended(name, times)
        yield replace(ended(name, most), reset_count=most)


def record(written: State | None, has_result: bool, silent_s: float | None, has_begun: bool) -> RunRecord:
    state = current_state(written, has_result, silent_s is not None, has_begun)
    return RunRecord(state, RunState("a"), silent_s)


def test_every_content_of_a_run_directory_is_one_state() -> None:
    for written, has_result, silent_s, has_begun in FILES:
        state = record(written, has_result, silent_s, has_begun).state
        assert (state is State.COMPLETED) == (written is State.COMPLETED and has_result)
        assert (state is State.RUNNING) == (silent_s is not None and written in (None, State.RUNNING))
        assert (state is State.FAILED) == (written is State.FAILED)
        assert state not in (State.STALLED, State.CANCELLED)


def test_every_combination_gives_one_state_and_due_means_startable() -> None:
    records = {(item.state, item.silent_s): item for item in itertools.starmap(record, FILES)}.values()
    seen: set[Classification] = set()
    for found in records:
        choices = itertools.product(histories(), (False, True), (None, 4.0, 8.0), ({}, NODE_FAILED))
        for history, cancelled, mem_gb, ends in choices:
            item = classify(found, history, cancelled, mem_gb, ends)
            seen.add(item)
            kinds = (item.is_done, item.is_due, item.is_locked, item.needs_retry)
            assert sum(kinds) == 1, "each run is done, due, locked, or needs a retry"
            assert item.is_done == (found.state is State.COMPLETED)
            assert item.is_running == (found.state is State.RUNNING)
            assert not (item.is_due and (found.is_owned or cancelled or item.is_running))
            assert (item.state is State.CANCELLED) == (item.blocked_by is BlockedBy.CANCEL)
            assert item.cause is None or item.cause in CAUSES
            assert item.cause is not None or item.state not in (State.FAILED, State.CANCELLED)
            assert item.state is not State.STALLED or (found.silent_s or 0) > STALLED_AFTER_S
    assert {item.state for item in seen} == set(State) - {State.BLOCKED, State.STALE}  # by other runs alone
    by_others = {BlockedBy.WAIT, BlockedBy.PARENT, BlockedBy.STALE}
    assert {item.blocked_by for item in seen} == {None, *BlockedBy} - by_others


CANCELLED = Classification(State.CANCELLED, "cancelled", BlockedBy.CANCEL)
FAILED, PENDING, INTERRUPTED, RUNNING = State.FAILED, State.PENDING, State.INTERRUPTED, State.RUNNING


@pytest.mark.parametrize(
    ("written", "silent_s", "history", "cancelled", "mem_gb", "ends", "expected"),
    [
        (PENDING, None, History(), False, None, {}, Classification(PENDING)),
        (PENDING, None, ended("preempted", 99), False, None, {}, Classification(PENDING, "preempted")),
        (PENDING, 1.0, History(), False, None, {}, Classification(PENDING, None, BlockedBy.LOCK)),
        (RUNNING, 1.0, ended(None), True, None, {}, Classification(RUNNING, None, BlockedBy.LOCK)),
        (RUNNING, 75.0, ended(None), False, None, {}, Classification(State.STALLED, None, BlockedBy.LOCK)),
        (RUNNING, None, ended(None), False, None, {}, Classification(INTERRUPTED)),
        (RUNNING, None, ended(None), False, None, NODE_FAILED, Classification(INTERRUPTED, "node_failure")),
        (
            RUNNING,
            None,
            ended(None, 5),
            False,
            None,
            NODE_FAILED,
            Classification(FAILED, "node_failure", BlockedBy.RETRIES),
        ),
        (FAILED, None, History(), False, None, {}, Classification(FAILED, "exception")),
        (FAILED, None, ended("completed"), False, None, {}, Classification(FAILED, "exception")),
        (FAILED, None, ended("exception"), False, None, {}, Classification(FAILED, "exception", BlockedBy.RETRIES)),
        (FAILED, 1.0, ended("exception"), False, None, {}, Classification(FAILED, "exception", BlockedBy.RETRIES)),
        (FAILED, None, replace(ended("request"), reset_count=1), False, None, {}, Classification(FAILED, "request")),
        (
            FAILED,
            None,
            ended("out_of_memory"),
            False,
            4.0,
            {},
            Classification(FAILED, "out_of_memory", BlockedBy.RETRIES),
        ),
        (FAILED, None, ended("out_of_memory"), False, 8.0, {}, Classification(FAILED, "out_of_memory")),
        (INTERRUPTED, None, ended("killed", 2), False, None, {}, Classification(INTERRUPTED, "killed")),
        (INTERRUPTED, None, ended("killed", 3), False, None, {}, Classification(FAILED, "killed", BlockedBy.RETRIES)),
        (INTERRUPTED, None, ended("stopped"), True, None, {}, CANCELLED),
        (FAILED, None, ended("cancelled"), False, None, {}, CANCELLED),
        (State.COMPLETED, None, ended("completed"), False, None, {}, Classification(INTERRUPTED)),  # without a result
    ],
)  # fmt: skip
def test_what_a_run_is(
    written: State,
    silent_s: float | None,
    history: History,
    cancelled: bool,
    mem_gb: float | None,
    ends: Ends,
    expected: Classification,
) -> None:
    assert classify(record(written, False, silent_s, True), history, cancelled, mem_gb, ends) == expected


# -- on disk ----------------------------------------------------------------------------------------------------------

CLAIMS = ("none", "alive", "silent", "stale", "dead", "released", "foreign")


def make_claim(paths: RunPaths, kind: str) -> None:
    if kind == "none":
        return
    paths.claims.mkdir(parents=True)
    file = paths.claims / "0001.json"
    owner = DEAD if kind == "dead" else this_process() if kind == "alive" else ELSEWHERE
    claim = {**owner.to_record(), "slurm": None, "claimed": STARTED}
    write_text(
        file,
        "not json" if kind == "foreign" else to_json(claim | ({"released": STARTED} if kind == "released" else {})),
    )
    ages = {"silent": STALLED_AFTER_S + 15, "stale": STALE_AFTER_S + 15}
    then = time.time() - ages.get(kind, 0)
    os.utime(file, (then, then))


def make_run(sweep: Sweep, run: SweepRun, shape: dict[str, Any]) -> None:
    paths = run.paths()
    paths.root.mkdir(parents=True)
    if shape["written"] == "torn":
        paths.state.write_text('{"state": "COMPL')
    elif shape["written"] is not None:
        write_state(paths, RunState(run.run_id, shape["written"], 1, step=40, total_steps=100, started=STARTED))
    if shape["result"] != "none":
        paths.summary.write_text(to_json({"time_s": 1.0}) if shape["result"] == "whole" else '{"ti')
    if shape["saved"]:
        (paths.checkpoints / "checkpoint-40").mkdir(parents=True)
    make_claim(paths, shape["claim"])
    for cause in shape["causes"]:
        attempt(sweep, run.index, cause, session="8.0", owner=shape["owner"], mem_gb=shape["mem_gb"])
    if shape["retried"]:
        note_retry(sweep.attempts(run))
    if shape["cancelled"]:
        stop_requests.cancel(sweep.control, run.run_id)


SHAPE = st.fixed_dictionaries(
    {
        "written": st.sampled_from([None, "torn", *WRITTEN[1:]]),
        "result": st.sampled_from(["none", "whole", "torn"]),
        "saved": st.booleans(),
        "claim": st.sampled_from(CLAIMS),
        "causes": st.lists(st.sampled_from([None, *CAUSES]), max_size=4),
        "owner": st.sampled_from([DEAD, ELSEWHERE, this_process()]),
        "mem_gb": st.sampled_from([None, 4.0, 16.0]),
        "retried": st.sampled_from([False, False, True]),
        "cancelled": st.sampled_from([False, False, True]),
    }
)
PLANNED = {
    State.COMPLETED: {Status.DONE},
    State.RUNNING: {Status.RUNNING},
    State.STALLED: {Status.RUNNING},
    State.PENDING: {Status.NEW, Status.RESUME},
    State.INTERRUPTED: {Status.NEW, Status.RESUME},
}


@settings(max_examples=examples(40), suppress_health_check=list(HealthCheck))
@given(shapes=st.lists(SHAPE, min_size=1, max_size=5), state=st.sampled_from(["NODE_FAIL", "COMPLETED", "COMPLETING"]))
def test_status_driver_plan_and_claims_agree_on_any_sweep(
    tmp_path_factory: pytest.TempPathFactory, shapes: Sequence[dict[str, Any]], state: str
) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    sweep = make_sweep(folder, [[f"seed={seed}"] for seed in range(len(shapes))])
    submission = json.loads(sweep.submission_file.read_text())
    sweep.submission_file.write_text(to_json({**submission, "resources": {"mem_gb": 8.0}}))
    for run, shape in zip(sweep.runs, shapes, strict=True):
        make_run(sweep, run, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm, "states", lambda jobs: {job: [slurm.JobState(job, state)] for job in jobs})
        patch.setattr(slurm, "is_installed", lambda: True)
        asked = {item.run: item.what for item in gather(sweep).runs}
        reconcile(sweep)  # as a driver does before it looks
    runs, status = classify_runs(sweep), gather(sweep, ask_slurm=False)
    told = load_runs(sweep=sweep.root)["state"].tolist()
    assert {item.run: item.what for item in status.runs} == runs.items
    assert asked == runs.items, "with Slurm's answer a status knows what a driver notes"
    assert status.all_done == (len(runs.done) == len(sweep.runs))
    assert status.exit_code == (0 if status.all_done else 1 if runs.needs_retry or not runs.locked else 3)
    for run, item in runs.items.items():
        planned, _ = status_of(own_app(), run.paths())
        assert planned in PLANNED.get(item.state, set(Status) - {Status.DONE, Status.RUNNING})
        assert told[run.index] == read_run(run.paths()).state
        assert (planned is Status.DONE) == item.is_done
        assert (planned is Status.RUNNING) == item.is_running
        if shapes[run.index]["claim"] != "foreign" and (item.is_due or item.is_locked):
            assert may_be_claimed(run.paths()) == item.is_due


DAMAGES: dict[str, Callable[[RunPaths], object]] = {
    "nothing": lambda paths: None,
    "no summary": lambda paths: paths.summary.unlink(),
    "torn summary": lambda paths: paths.summary.write_text('{"ti'),
    "deep summary": lambda paths: paths.summary.write_text("[" * 100_000),
    "folder for a summary": lambda paths: (paths.summary.unlink(), paths.summary.mkdir()),
    "no state": lambda paths: paths.state.unlink(),
    "torn state": lambda paths: paths.state.write_text('{"state": "COMPL'),
    "state of other types": lambda paths: paths.state.write_text(paths.state.read_text().replace("40", '"many"')),
    "neither state nor summary": lambda paths: (paths.state.unlink(), paths.summary.unlink()),
    "no config": lambda paths: paths.config.unlink(),
    "no checkpoints": lambda paths: shutil.rmtree(paths.checkpoints),
    "neither summary nor checkpoints": lambda paths: (paths.summary.unlink(), shutil.rmtree(paths.checkpoints)),
    "a claim that is not ours": lambda paths: make_claim(paths, "foreign"),
    "nothing left": lambda paths: (shutil.rmtree(paths.root), paths.root.mkdir()),
    "no directory": lambda paths: shutil.rmtree(paths.root),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_all_say_the_same_of_a_damaged_run(tmp_path: Path, damage: Callable[[RunPaths], object]) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]])
    (run,) = sweep.runs
    paths = write_run(run, State.COMPLETED, 40, rows=[{"step": 40, "loss": 0.5}])
    write_text(paths.config, "{}")
    (paths.checkpoints / "checkpoint-40").mkdir(parents=True)
    damage(paths)
    (shown,) = gather(sweep).runs
    (told,) = load_runs(sweep=sweep.root)["state"].tolist()
    assert told == shown.state == read_run(paths).state
    assert status_of(own_app(), paths)[0] in PLANNED[shown.state]
    assert (skips(paths) and not shown.what.is_due) or (shown.what.is_due and open_runs(sweep, None) == [run])
    if paths.root.exists() and any(paths.root.iterdir()):
        assert load_runs(paths.root)["state"].tolist() in ([told], [])  # without state and summary it is no run


def skips(paths: RunPaths) -> bool:
    """Returns whether a start of the run finds it complete."""
    try:
        return is_done(paths)
    except StateUnreadable:
        return False


def may_be_claimed(paths: RunPaths) -> bool:
    try:
        acquire(paths)
    except RunHeld:
        return False
    return True


def test_a_claim_that_is_not_ours_is_named_and_costs_no_state(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]])
    run = sweep.runs[0]
    run.paths().root.mkdir(parents=True)
    write_state(run.paths(), RunState(run.run_id, State.RUNNING, 1, step=40, total_steps=100))
    make_claim(run.paths(), "foreign")
    found = read_run(run.paths())
    assert (found.state, found.file.step) == (State.INTERRUPTED, 40)
    assert "0001.json: must be a claim written by gpt-opt" in found.problem
    assert gather(sweep).notes == (f"run 0: {found.problem}",)


def test_a_retry_knows_a_state_as_status_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]], backend="disbatch", jobs=[Job("12", STARTED)])
    elsewhere = replace(DEAD, machine="another")
    attempt(sweep, 0, None, session="12.0", owner=elsewhere)
    known = {"12": [slurm.JobState("12", "OUT_OF_MEMORY")]}
    monkeypatch.setattr(slurm, "is_installed", lambda: True)
    monkeypatch.setattr(slurm, "states", lambda jobs: known)
    shown = gather(sweep).runs[0].state
    assert shown is State.FAILED
    with pytest.raises(ConfigError, match=r"fits none of 1 FAILED\n +gptopt retry beta/1 starts failed runs again"):
        retry(sweep, "STALE", ["seed=1"])


@pytest.mark.parametrize(
    ("state", "where", "told"),
    [
        ("CANCELED", [], r"STALE, .*but is 'CANCELED'\n +did you mean CANCELLED\?"),
        ("DONE", [], "shows the state of each run"),
        ("FAILED", ["bet=1"], r"none has bet=1\n +did you mean loss.beta\?"),
        ("FAILED", ["colour=1"], "their keys: loss.beta, seed$"),
        ("FAILED", ["beta=0.2"], "their values of beta: 0.1, 0.3$"),
        ("FAILED", ["beta"], "must be KEY=VALUE"),
    ],
)
def test_a_retry_of_what_there_is_not_says_what_there_is(
    tmp_path: Path, state: str, where: list[str], told: str
) -> None:
    sweep = make_sweep(tmp_path, [["loss.beta=0.1", "seed=1"], ["loss.beta=0.3", "seed=1"]])
    with pytest.raises(ConfigError, match=told):
        retry(sweep, state, where)


def test_a_retry_of_completed_runs_says_that_they_are_kept_and_how_to_train_them_anew(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]])
    write_run(sweep.runs[0], State.COMPLETED, 100)
    told = re.compile("--state: .*COMPLETED runs are kept.*rerun=true trains it anew", re.DOTALL)
    with pytest.raises(ConfigError, match=told):
        retry(sweep, "COMPLETED", [])
    with pytest.raises(ConfigError, match="rerun=true trains it anew"):
        retry(sweep, "FAILED", [], sweep.runs[0])


def test_a_folder_that_is_no_submission_keeps_nothing_from_a_cancel(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]])
    (sweep.root.parent / "5").mkdir()
    (sweep.root.parent / "²").mkdir()
    cancel(sweep, sweep.runs)
    assert classify_runs(sweep).items[sweep.runs[0]].blocked_by is BlockedBy.CANCEL
    assert f"left out: {sweep.root.parent}/5/submission.json must be written by gptopt submit" in caplog.text


@pytest.mark.parametrize("torn", ["plan.jsonl", "submission.json"])
def test_a_submission_that_cannot_be_read_is_left_out_for_a_new_one(tmp_path: Path, torn: str) -> None:
    sweep = make_sweep(tmp_path, [["seed=1"]])
    parent = sweep.root.parent
    shutil.copytree(sweep.root, parent / "2")
    (parent / "2" / torn).write_text('{"')
    wrong: list[str] = []
    assert [found.label for found in submissions(parent, lambda error: wrong.append(str(error)))] == ["beta/1"]
    assert [str(parent / "2" / torn) in text for text in wrong] == [True]
