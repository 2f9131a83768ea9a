"""Sweeps with stages on disk: what runs are given those that they start from, and which of several is chosen."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpt_opt
from gpt_opt.cli import main
from gpt_opt.cli.views import status as show_status
from gpt_opt.cli.views import submit as show_submit
from gpt_opt.dispatch import stages
from gpt_opt.dispatch.actions import descendants, retry
from gpt_opt.dispatch.backends.disbatch import Round
from gpt_opt.dispatch.stages import classify_runs, decide, hopes, must_wait
from gpt_opt.dispatch.start import start_jobs
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.dag import Parent, described, origins, rule
from gpt_opt.plan.planner import override_lists
from gpt_opt.records.attempts import note_retry
from gpt_opt.records.former_choices import former_choices
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Shape, StageRecord, Submission, Sweep, SweepRun, active, create
from gpt_opt.sweep.grid import parse_grid
from gpt_opt.sweep.model import Resources, Stage
from gpt_opt.sweep.points import count
from tests.dispatch.on_disk import attempt, make_sweep, write_run
from tests.helpers.examples import examples

BEST = {"best": "eval/loss", "goal": "minimize"}


def plan(stages: Sequence[Stage], folder: Path) -> list[SweepRun]:
    """Returns the runs of stages as the planner numbers them, with ids of their overrides in the place of configs."""
    runs: list[SweepRun] = []
    for stage in stages:
        start = stage.start.stage if stage.start is not None else ""
        before = [run for run in runs if run.stage == start]
        parents = [Parent(run.index, run.number, run.run_id, run.overrides, {"seed": 0}) for run in before]
        for origin in origins(stage, parents, (), own_app().start):
            for index, own in enumerate(override_lists(stage.space)):
                overrides = (*origin.inherited, f"+stage={stage.name}", *own, *origin.start)
                name = hashlib.sha256(repr(overrides).encode()).hexdigest()[:12]
                number = origin.number * count(stage.space) + index
                place = (0, stage.name, number, origin.parent, origin.choice)
                runs.append(SweepRun(len(runs), name, str(folder / f"run-{name}"), overrides, *place))
    return runs


def make(folder: Path, *stages: dict[str, Any]) -> Sweep:
    """Makes the sweep `pipe/1` of the stages of a sweep file."""
    found = parse_grid(json.dumps({"stages": stages})).stages
    records = []
    for stage in found:
        best = stage.start.best if stage.start is not None else None
        metric = None if best is None else {"name": best.metric, "goal": rule(best).goal}
        records.append(StageRecord(stage.name, described(stage.start), metric))
    about = ("pipe", "pipe.json", (), "local", (Shape({}, 2),), None, str(Path.cwd()), str(folder))
    submission = Submission(*about, stages=tuple(records))
    parent = folder / "sweeps" / "pipe"
    parent.mkdir(parents=True)
    return create(parent, "{}", plan(found, folder / "outputs" / "m" / "d" / "o"), submission)


def complete(run: SweepRun, loss: float = 1.0, number: int = 1, started_from: Mapping[str, str] | None = None) -> None:
    """Writes a run as COMPLETED; `started_from` is a run id with the attempt whose result it started from."""
    paths = write_run(run, State.COMPLETED, 100)
    write_text(
        paths.summary, to_json({"run_id": run.run_id, "attempt": number, "step": 100, "metrics": {"eval/loss": loss}})
    )
    inputs = {"model.archive": {"path": "x", "sha256": "y", **started_from}} if started_from else {}
    write_text(paths.provenance, to_json({"inputs": inputs}))


def fail(sweep: Sweep, run: SweepRun) -> None:
    write_run(run, State.FAILED, error={"type": "RuntimeError", "message": "broken", "traceback": ""})
    attempt(sweep, run.index, "exception")


def names(runs: Sequence[SweepRun]) -> list[str]:
    return [run.name for run in runs]


def states(sweep: Sweep) -> dict[str, State]:
    return {run.name: item.state for run, item in classify_runs(sweep).items.items()}


SFT_DPO = ({"name": "sft", "grid": {"+lr": [1, 2]}}, {"name": "dpo", "grid": {"+b": [1, 2, 3]}})
BEST_OF = (SFT_DPO[0], {**SFT_DPO[1], "from": BEST})


def test_children_are_due_when_their_own_parent_is_complete(tmp_path: Path) -> None:
    sweep = make(tmp_path, *SFT_DPO)
    assert len(sweep.runs) == 2 + 6
    assert names(classify_runs(sweep).due) == ["sft/0", "sft/1"]
    complete(sweep.run("sft/1"))
    assert names(classify_runs(sweep).due) == ["sft/0", "dpo/3", "dpo/4", "dpo/5"]
    assert "sft/0, which it starts from, is PENDING" in must_wait(sweep, sweep.run("dpo/0"))
    assert must_wait(sweep, sweep.run("dpo/3")) == ""


def test_a_failed_parent_blocks_its_children_and_no_others(tmp_path: Path) -> None:
    sweep = make(tmp_path, *SFT_DPO, {"name": "eval"})
    fail(sweep, sweep.run("sft/0"))
    complete(sweep.run("sft/1"))
    found = states(sweep)
    assert {found[f"dpo/{i}"] for i in (0, 1, 2)} == {found[f"eval/{i}"] for i in (0, 1, 2)} == {State.BLOCKED}
    assert names(classify_runs(sweep).due) == ["dpo/3", "dpo/4", "dpo/5"]
    status = gather(sweep, ask_slurm=False)
    text = show_status.as_text(status, None)
    assert "BLOCKED by sft/0" in text
    assert "└ dpo" in text
    assert status.exit_code == 1
    with pytest.raises(ConfigError, match="retry pipe/1 sft/0 frees it"):
        retry(sweep, "FAILED", [], sweep.run("dpo/0"))


def test_what_a_cancel_would_block(tmp_path: Path) -> None:
    sweep = make(tmp_path, *SFT_DPO, {"name": "eval"})
    below = names(descendants(sweep, [sweep.run("sft/1")]))
    assert below == ["dpo/3", "dpo/4", "dpo/5", "eval/3", "eval/4", "eval/5"]
    best = make(tmp_path / "best", *BEST_OF)
    assert not descendants(best, [best.run("sft/1")]), "another candidate is left"
    assert len(descendants(best, [best.run("sft/0"), best.run("sft/1")])) == 3


def test_the_best_is_chosen_when_all_have_ended(tmp_path: Path) -> None:
    sweep = make(tmp_path, *BEST_OF)
    assert len(states(sweep)) == 2 + 3
    complete(sweep.run("sft/1"), loss=0.5)
    decide(sweep)
    assert names(classify_runs(sweep).due) == ["sft/0"]
    complete(sweep.run("sft/0"), loss=0.4)
    decide(sweep)
    due = classify_runs(sweep).due
    assert (names(due), {run.parent for run in due}) == (["dpo/0", "dpo/1", "dpo/2"], {0})
    assert sweep.run("dpo/1").parent == 0
    assert "starts from sft/0, the best of sft/0 to sft/1" in show_status.as_text(gather(sweep, False), None)


def test_a_run_of_a_choice_that_was_made_is_started_without_a_look_at_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make(tmp_path, *BEST_OF)
    complete(sweep.run("sft/0"), loss=0.4)
    complete(sweep.run("sft/1"), loss=0.5)
    runs = {run.parent: run for run in sweep.runs if run.stage == "dpo"}
    assert must_wait(sweep, runs[0]) == "", "the slot decides where nobody has"
    monkeypatch.setattr(stages, "decide", lambda _: pytest.fail("all runs are read"))
    assert must_wait(sweep, runs[0]) == ""
    assert must_wait(sweep, runs[1]) == "sft/1 was not chosen"


def test_a_candidate_that_is_retried_and_wins_makes_children_stale_until_the_user_says(tmp_path: Path) -> None:
    sweep = make(tmp_path, *BEST_OF)
    complete(sweep.run("sft/0"), loss=0.5)
    fail(sweep, sweep.run("sft/1"))
    decide(sweep)
    due = classify_runs(sweep).due
    assert {run.parent for run in due} == {0}, "a failed candidate holds nothing up"
    for run in due:
        complete(run)
    note_retry(sweep.attempts(sweep.run("sft/1")))
    complete(sweep.run("sft/1"), loss=0.1)
    assert {states(sweep)[f"dpo/{i}"] for i in range(3)} == {State.STALE}
    status = gather(sweep, ask_slurm=False)
    assert status.exit_code == 1
    assert "sft/1 is better now: gptopt retry pipe/1 --state STALE" in show_status.as_text(status, None)
    decide(sweep)
    assert not classify_runs(sweep).due, "only the user's word makes them anew"


def test_a_parent_that_was_made_anew_makes_children_stale(tmp_path: Path) -> None:
    sweep = make(tmp_path, *SFT_DPO, {"name": "last"})
    complete(sweep.run("last/0"))
    parent, child, other = sweep.run("sft/0"), sweep.run("dpo/0"), sweep.run("dpo/1")
    complete(parent)
    complete(child, started_from={"run_id": parent.run_id, "attempt": "1"})
    assert states(sweep)["dpo/0"] is State.COMPLETED
    complete(parent, number=2)
    complete(other, started_from={"run_id": parent.run_id, "attempt": "2"})
    assert (states(sweep)["dpo/0"], states(sweep)["dpo/1"]) == (State.STALE, State.COMPLETED)
    assert states(sweep)["last/0"] is State.STALE, "and so what was made from that"
    assert "gptopt retry pipe/1 --state STALE" in show_status.as_text(gather(sweep, ask_slurm=False), None)
    parent.paths().summary.unlink()
    assert states(sweep)["dpo/0"] is State.COMPLETED, "what is being made, or was removed, replaces nothing yet"


def test_a_run_that_has_begun_goes_on_with_no_other_start(tmp_path: Path) -> None:
    sweep = make(tmp_path, *SFT_DPO)
    parent, child = sweep.run("sft/0"), sweep.run("dpo/0")
    complete(parent)
    complete(child, started_from={"run_id": parent.run_id, "attempt": "1"})
    child.paths().summary.unlink()
    assert child in classify_runs(sweep).due
    complete(parent, number=2)
    assert states(sweep)["dpo/0"] is State.STALE


def test_children_of_the_chosen_one_wait_while_it_is_made_anew(tmp_path: Path) -> None:
    sweep = make(tmp_path, *BEST_OF)
    complete(sweep.run("sft/0"), loss=0.1)
    complete(sweep.run("sft/1"), loss=0.2)
    decide(sweep)
    complete(sweep.run("dpo/0"))
    write_run(sweep.run("sft/0"), State.INTERRUPTED)
    sweep.run("sft/0").paths().summary.unlink()
    runs = classify_runs(sweep)
    assert [run.name for run in runs.due] == ["sft/0"]
    assert [states(sweep)[f"dpo/{i}"] for i in range(3)] == [State.COMPLETED, State.PENDING, State.PENDING]


def test_a_choice_waits_for_the_others_where_its_first_candidate_failed(tmp_path: Path) -> None:
    sweep = make(tmp_path, *BEST_OF)
    fail(sweep, sweep.run("sft/0"))
    assert {states(sweep)[f"dpo/{i}"] for i in range(3)} == {State.PENDING}
    complete(sweep.run("sft/1"))
    decide(sweep)
    assert {run.parent for run in classify_runs(sweep).due} == {1}


def test_nothing_is_chosen_where_every_candidate_failed(tmp_path: Path) -> None:
    sweep = make(tmp_path, *BEST_OF)
    for name in ("sft/0", "sft/1"):
        fail(sweep, sweep.run(name))
    decide(sweep)
    assert {states(sweep)[f"dpo/{i}"] for i in range(3)} == {State.BLOCKED}


def test_choices_hold_on_where_the_sweep_is_submitted_with_other_runs(tmp_path: Path) -> None:
    sweep = make(tmp_path, *BEST_OF)
    complete(sweep.run("sft/0"), loss=0.5)
    complete(sweep.run("sft/1"), loss=0.4)
    decide(sweep)
    complete(sweep.run("sft/0"), loss=0.3)  # it was retried, and would win now
    parent = sweep.root.parent
    more = parse_grid(json.dumps({"stages": [BEST_OF[0], {**BEST_OF[1], "grid": {"+b": [1, 2, 3, 4]}}]})).stages
    held = former_choices(parent, plan(more, tmp_path / "outputs"))
    assert {name: choice.parent for name, choice in held.items()} == {"dpo": 1}
    further = parse_grid(json.dumps({"stages": [{**BEST_OF[0], "grid": {"+lr": [1, 2, 3]}}, BEST_OF[1]]})).stages
    assert not former_choices(parent, plan(further, tmp_path / "outputs")), "a new candidate is a new choice"


def test_a_choice_of_a_run_that_will_not_be_made_is_none(tmp_path: Path) -> None:
    sweep = make(tmp_path, *BEST_OF, {"name": "last", "from": BEST})
    below = [run.index for run in sweep.runs if run.stage == "dpo" and run.parent == 1]
    held = active(sweep.runs, {"dpo": 0, "last": below[0]})
    assert sum(sweep.runs[index].stage == "last" for index in held) == 1


def test_candidates_without_the_metric_are_told(tmp_path: Path) -> None:
    sweep = make(tmp_path, SFT_DPO[0], {**SFT_DPO[1], "from": {"best": "eval/los", "goal": "minimize"}})
    for name in ("sft/0", "sft/1"):
        complete(sweep.run(name))
    assert {states(sweep)[f"dpo/{i}"] for i in range(3)} == {State.BLOCKED}
    reason = "but none has eval/los in its summary.json"
    assert reason in show_status.as_text(gather(sweep, ask_slurm=False), None)
    outcome = start_jobs(sweep)
    assert outcome.is_blocked
    assert reason in show_submit.as_text(outcome)


def test_a_submission_says_what_blocks_its_runs(tmp_path: Path) -> None:
    sweep = make(tmp_path, *SFT_DPO, {"name": "eval"})
    complete(sweep.run("sft/1"))
    for name in ("sft/0", "dpo/3", "dpo/4", "dpo/5"):
        fail(sweep, sweep.run(name))
    outcome = start_jobs(sweep)
    assert outcome.is_blocked
    text = show_submit.as_text(outcome)
    assert "3 runs are blocked by sft/0, which is FAILED" in text
    assert "1 run is blocked by dpo/0, which is BLOCKED" in text


def test_a_retry_of_blocked_runs_says_what_blocks_them_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = make(tmp_path, {"name": "sft"}, {"name": "dpo", "from": BEST})
    fail(sweep, sweep.run("sft/0"))
    assert main(["retry", "pipe", "--state", "blocked"]) == 1
    text = capsys.readouterr().out
    assert "the best of sft/0 by eval/loss will be chosen, it cannot end without you\n" in text
    assert "1 run that failed, was cancelled or is STALE is not started again\n" in text


def test_a_driver_hands_out_more_runs_than_the_pipe_to_disbatch_holds(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [[f"seed={seed}"] for seed in range(2000)])
    work = Round(sweep, Resources(), "local-1-0", "0-1", 1, in_job=False)
    try:
        feeding = Thread(target=work.feed, args=([[run] for run in sweep.runs], True), daemon=True)
        feeding.start()
        feeding.join(60)
        assert not feeding.is_alive()
        assert not work.wait(1.0)
    finally:
        work.end()


def test_a_table_of_a_sweep_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *SFT_DPO)
    (tmp_path / "pipe.json").write_text(json.dumps({"stages": SFT_DPO}))
    monkeypatch.chdir(tmp_path)
    table = gpt_opt.sweep("pipe.json").runs()
    assert list(table["name"]) == ["sft/0", "sft/1", *(f"dpo/{index}" for index in range(6))]
    assert list(table["parent"].dropna()) == ["sft/0"] * 3 + ["sft/1"] * 3
    assert set(table["lr"].dropna()) == {1, 2}
    assert set(table["state"]) == {"PENDING"}


# -- any tree ---------------------------------------------------------------------------------------------------------


@st.composite
def trees(draw: st.DrawFn) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = []
    for index in range(draw(st.integers(1, 4))):
        stage: dict[str, Any] = {"name": f"s{index}", "grid": {"+p": list(range(draw(st.integers(1, 3))))}}
        if index:
            start: dict[str, Any] = {"stage": f"s{draw(st.integers(0, index - 1))}"}
            stage["from"] = {**start, **(BEST if draw(st.booleans()) else {})}
        stages.append(stage)
    return stages


class Slots:
    """Takes due runs in any order, until none is due."""

    def __init__(self, sweep: Sweep, data: st.DataObject) -> None:
        self.sweep, self.data = sweep, data
        self.ended: dict[str, str] = {}
        self.starts: list[str] = []

    def work(self, may_fail: bool) -> None:
        while True:
            decide(self.sweep)
            due = classify_runs(self.sweep).due
            if not due:
                return
            run = self.data.draw(st.sampled_from(due))
            assert must_wait(self.sweep, run) == ""
            if run.parent is not None:
                assert self.ended[self.sweep.runs[run.parent].run_id] == "completed"
            self.starts.append(run.run_id)
            if may_fail and self.data.draw(st.integers(0, 4)) == 0:
                self.ended[run.run_id] = "failed"
                fail(self.sweep, run)
            else:
                self.ended[run.run_id] = "completed"
                complete(run, loss=self.data.draw(st.sampled_from([0.1, 0.2, 0.3])))


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow])
@given(stages=trees(), data=st.data())
def test_any_tree_with_any_failures(stages: list[dict[str, Any]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sweep = make(Path(folder), *stages)
        slots = Slots(sweep, data)
        slots.work(may_fail=True)
        assert len(slots.starts) == len(set(slots.starts)), "no run is started twice"
        failed = {run.index for run in sweep.runs if slots.ended.get(run.run_id) == "failed"}
        before, items = hopes(sweep.runs), classify_runs(sweep).items
        for run, item in items.items():
            if not item.is_done:
                assert run.index in failed or before[run.index] & failed, (run.name, item)
            if not before[run.index] & failed and run.index not in failed:
                assert item.is_done
        for index in failed:
            note_retry(sweep.attempts(sweep.runs[index]))
        first = len(slots.starts)
        slots.work(may_fail=False)
        assert len(slots.starts) - first == len(set(slots.starts[first:]))
        left = {item.state for item in classify_runs(sweep).items.values()}
        assert left <= {State.COMPLETED, State.STALE, State.BLOCKED}
        assert State.BLOCKED not in left or State.STALE in left, "only what is STALE holds others up"
