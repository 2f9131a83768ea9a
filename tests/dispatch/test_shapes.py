"""Runs of one sweep that need different things: on disk, for drivers and jobs, and when a sweep is submitted again."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

import gpt_opt
from gpt_opt.cli import main
from gpt_opt.cli.views import status as show_status
from gpt_opt.dispatch import slurm, submit
from gpt_opt.dispatch.backends.limits import check_backend, check_plan, usable
from gpt_opt.dispatch.driver import part_to_drive
from gpt_opt.dispatch.driver_claim import is_driven
from gpt_opt.dispatch.jobs import idle, living_jobs, unserved
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.errors import ConfigError
from gpt_opt.records import stop_requests as control
from gpt_opt.records.claim import RunHeld, acquire
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Job, Shape, Sweep
from gpt_opt.sweep.model import Resources
from tests.dispatch.on_disk import STARTED, attempt, make_sweep, write_run

SMALL, LARGE = Shape({"gpus_per_run": 1, "mem_gb": 4}, 2), Shape({"gpus_per_run": 2, "mem_gb": 8, "time_min": 60}, 1)
FOUR = [[f"seed={seed}"] for seed in range(4)]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Runs 0 and 2 are small, 1 and 3 large; a job for each shape."""
    jobs = [Job("12", STARTED, shape=0), Job("13", STARTED, shape=1)]
    return make_sweep(tmp_path, FOUR, backend="disbatch", shapes=(SMALL, LARGE), jobs=jobs)


def indices(sweep: Sweep) -> list[int]:
    return [run.index for run in sweep.runs]


# -- on disk ----------------------------------------------------------------------------------------------------------


def test_a_sweep_of_before_has_one_shape(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, FOUR, jobs=[Job("12", STARTED)])
    record = json.loads(sweep.submission_file.read_text())
    del record["shapes"], record["jobs"][0]["shape"]
    sweep.submission_file.write_text(json.dumps({**record, "resources": {"mem_gb": 4}, "slots": 3}))
    lines = [json.loads(line) for line in sweep.plan_file.read_text().splitlines()]
    sweep.plan_file.write_text(
        "".join(json.dumps({**line, "shape": None}) + "\n" for line in lines).replace(', "shape": null', "")
    )
    old = Sweep(sweep.root)
    assert old.submission().shapes == (Shape({"mem_gb": 4}, 3),)
    assert {run.shape for run in old.runs} == {0}
    assert unserved(old.runs, old.submission().jobs) == []
    assert [indices(part) for part in old.parts()] == [[0, 1, 2, 3]]
    assert gather(old, ask_slurm=False).counts[State.PENDING] == 4


def test_parts_have_their_runs_and_drivers_of_their_own(sweep: Sweep) -> None:
    small, large = sweep.parts()
    assert [indices(part) for part in (sweep, small, large)] == [[0, 1, 2, 3], [0, 2], [1, 3]]
    assert [part.needs() for part in (small, large)] == [SMALL, LARGE]
    assert not is_driven(sweep)
    with acquire(small.driver):
        assert [is_driven(part) for part in (sweep, small, large)] == [True, True, False]
        with pytest.raises(RunHeld):
            acquire(small.driver)
        with acquire(large.driver):
            assert is_driven(large)
    assert len({small.tasks, large.tasks, small.lost_nodes, large.lost_nodes}) == 4


def test_a_request_to_stop_is_for_one_driver(sweep: Sweep) -> None:
    small, large = sweep.parts()
    names = [control.driver_name(part.shape, 1) for part in (small, large)]
    control.drain(sweep.control, names[0])
    asked = control.read(sweep.control)
    assert [asked.stops(name, "run") for name in names] == [True, False]
    control.cancel(sweep.control, "run")
    assert control.read(sweep.control).stops(names[1], "run"), "a cancelled run stops whoever has it"


def test_out_of_memory_is_judged_by_what_the_shape_has_now(sweep: Sweep) -> None:
    for index in (0, 1):
        attempt(sweep, index, "out_of_memory", mem_gb=4.0)
    runs = classify_runs(sweep)
    assert [(run.index, runs.items[run].cause) for run in runs.needs_retry] == [(0, "out_of_memory")]
    assert [run.index for run in classify_runs(sweep.part(1)).due] == [1, 3]


def test_a_driver_in_a_job_works_through_one_shape(sweep: Sweep, tmp_path: Path) -> None:
    assert part_to_drive(sweep, 1, in_job=True).shape == 1
    assert part_to_drive(sweep, None, in_job=False) is sweep
    with pytest.raises(ConfigError, match="gptopt drive beta/1 --shape 0"):
        part_to_drive(sweep, None, in_job=True)
    with pytest.raises(ConfigError, match="must be a shape that runs of beta/1 have, 0, 1, but is 2"):
        part_to_drive(sweep, 2, in_job=True)
    one = make_sweep(tmp_path / "one", FOUR)
    assert part_to_drive(one, None, in_job=True) is one


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_serves_the_runs_of_its_shape(sweep: Sweep) -> None:
    runs, (small, large) = sweep.runs, sweep.submission().jobs
    assert [run.index for run in unserved(runs, [small])] == [1, 3]
    assert unserved(runs, [small, large]) == []
    assert unserved(runs, [Job("14", STARTED)]) == [], "an unknown shape may be any"
    assert [run.index for run in unserved(runs, [large, Job("15_0", STARTED, (2,), 0)])] == [0]
    assert idle([small, large], sweep.part(1).runs) == [small]
    assert idle([small, large, Job("14", STARTED)], runs) == []
    assert idle([small, Job("14", STARTED)], []) == [small, Job("14", STARTED)]
    assert idle([Job("15_0", STARTED, (2,), 0), Job("15_1", STARTED, (0,), 0)], runs[:1]) == [
        Job("15_0", STARTED, (2,), 0)
    ]


def test_a_job_whose_record_was_lost_is_found_with_its_shape(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = [
        f"20|{sweep.root}:shape-1",
        f"21|{sweep.root}",
        f"22|{sweep.root}0",
        "23|other",
        f"13|{sweep.root}:shape-1",
    ]
    monkeypatch.setattr(slurm, "run", lambda command, **_: "\n".join(queue) if "--format=%i|%k" in command else "")
    assert [(job.id, job.shape) for job in living_jobs(sweep)] == [("20", 1), ("21", None)]


# -- submitted again --------------------------------------------------------------------------------------------------


def again(sweep: Sweep, shapes: tuple[Shape, ...], of_runs: list[int]) -> None:
    """Submits the same runs anew, in the opposite order."""
    request = replace(sweep.submission(), shapes=shapes, jobs=())
    runs = [replace(run, shape=shape, overrides=("new",)) for run, shape in zip(sweep.runs, of_runs, strict=True)]
    submit._renew(sweep, request, runs[::-1], lambda _: None)


def asked(sweep: Sweep) -> list[Shape]:
    fresh = Sweep(sweep.root)
    return [fresh.submission().shapes[run.shape] for run in fresh.runs]


def test_runs_without_a_job_get_what_is_asked_for_now(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    more = Shape({**LARGE.resources, "mem_gb": 16}, 1)
    small, _ = jobs = sweep.submission().jobs
    monkeypatch.setattr(submit, "living_jobs", lambda *_: [small])
    with caplog.at_level(logging.WARNING):
        again(sweep, (SMALL, more), [0, 1, 0, 1])
    assert asked(sweep) == [SMALL, more, SMALL, more]
    assert not caplog.messages
    assert [run.overrides for run in Sweep(sweep.root).runs] == [("seed=0",), ("new",), ("seed=2",), ("new",)]
    assert sweep.submission().jobs == jobs
    assert [run.index for run in unserved(Sweep(sweep.root).runs, [small])] == [1, 3]
    monkeypatch.setattr(submit, "living_jobs", lambda *_: [])
    again(sweep, (more, SMALL), [1, 0, 0, 0])
    assert asked(sweep) == [SMALL, more, more, more]
    assert sweep.submission().shapes[:2] == (more, SMALL)


def test_runs_do_not_join_a_job_that_does_not_know_them(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    small, _ = sweep.submission().jobs
    monkeypatch.setattr(submit, "living_jobs", lambda *_: [small])
    again(sweep, (SMALL,), [0, 0, 0, 0])
    assert asked(sweep) == [SMALL] * 4
    assert [run.index for run in unserved(Sweep(sweep.root).runs, [small])] == [1, 3]


def test_what_a_living_job_has_does_not_change(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(submit, "living_jobs", lambda *_: sweep.submission().jobs)
    before = sweep.submission_file.read_text(), sweep.plan_file.read_text()
    again(sweep, (Shape({}, 2),), [0, 0, 0, 0])
    assert (sweep.submission_file.read_text(), sweep.plan_file.read_text()) == before
    assert "goes on with the resources it has" in caplog.text


# -- shown ------------------------------------------------------------------------------------------------------------


def test_status_shows_shapes_and_their_jobs(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"12": [slurm.JobState("12", "RUNNING", node="n1")], "13": [slurm.JobState("13", "PENDING", "Priority")]}
    monkeypatch.setattr(slurm, "states", lambda jobs: states)
    write_run(sweep.runs[0], State.COMPLETED, 100)
    lines = show_status.as_text(status := gather(sweep), 120).splitlines()
    assert lines[:4] == [
        "sweep beta/1: 4 runs, disbatch, 2 shapes",
        "shape 0: 2 runs, 1 COMPLETED, each 1 GPU, 4 GB, 2 slots",
        "shape 1: 2 runs, 0 COMPLETED, each 2 GPUs, 8 GB, 60 min, 1 slot",
        "jobs: 12 (shape 0) RUNNING on n1; 13 (shape 1) PENDING (Priority)",
    ]
    record = show_status.as_record(status)
    assert [shape["n"] for shape in record["shapes"]] == [2, 2]
    assert [item["shape"] for item in record["items"]] == [0, 1, 0, 1]
    assert [job["shape"] for job in record["jobs"]] == [0, 1]


# -- what a backend cannot do -----------------------------------------------------------------------------------------


def test_this_machine_says_what_it_does_not_use_and_refuses_such_a_flag(caplog: pytest.LogCaptureFixture) -> None:
    shapes = [Resources(time_min=60, partition="a", mem_gb=4), Resources(partition="b", sbatch=("--hold", "--nice"))]
    check_backend(shapes, "local", None, {})
    told = "not used on this machine, being for Slurm: time_min=60, partition=a, partition=b, sbatch=--hold --nice"
    assert caplog.messages == [told]
    with pytest.raises(ConfigError, match="--time-min: is 60, which is for Slurm, but the backend is local"):
        check_backend(shapes, "local", None, {"time_min": 60, "partition": None})
    check_backend(shapes, "disbatch", None, {"time_min": 60})


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a sweep file whose runs span nodes; it lies in the working directory, and there is no Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "is_installed", lambda: False)
    (file := Path("wide.json")).write_text(json.dumps({"base": {"loss.beta": 0.1}, "resources": {"nodes_per_run": 2}}))
    return file


LOCAL_REFUSES = "is 2, but the backend local gives a run slots on one node only"


def test_a_plan_refuses_what_the_submission_would(wide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for verb, *options in (("plan",), ("submit",), ("submit", "--dry-run")):
        assert main([verb, str(wide), "--backend", "local", *options]) == 2
        said.append(capsys.readouterr().err)
    assert LOCAL_REFUSES in said[0]
    assert said[0] == said[1] == said[2]
    assert main(["plan", str(wide), "--backend", "local", "--json"]) == 2
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error == {"where": "nodes_per_run", "message": LOCAL_REFUSES, "fix": "add --backend submitit"}
    with pytest.raises(ConfigError, match=LOCAL_REFUSES):
        gpt_opt.sweep(wide).plan("local")


def test_where_slurm_is_a_plan_is_for_disbatch(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "is_installed", lambda: True)
    with pytest.raises(ConfigError, match="the backend disbatch gives a run slots on one node only"):
        gpt_opt.sweep(wide).plan()


def test_without_slurm_a_plan_may_be_for_a_cluster(wide: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert gpt_opt.sweep(wide).plan().points == 1
    assert caplog.messages == [
        f"there is no Slurm here: nodes_per_run {LOCAL_REFUSES}; add --backend submitit to plan for a cluster"
    ]
    with pytest.raises(ConfigError, match="time_min: must be given for the backend submitit"):
        gpt_opt.sweep(wide).plan("submitit")
    with pytest.raises(ConfigError, match="so gpus_per_run must be 1, but is 2") as caught:
        check_plan([Resources(nodes_per_run=2, runs_per_gpu=2, gpus_per_run=2)], None)
    assert [problem.where for problem in caught.value.problems] == ["runs_per_gpu"], "no backend can do this"


def test_what_cannot_be_used_makes_no_shape(caplog: pytest.LogCaptureFixture) -> None:
    one, other = Resources(mem_gb=4, partition="a"), Resources(mem_gb=4, partition="b", sbatch=("--hold",))
    assert usable(one, "local") == usable(other, "local") == Resources(mem_gb=4)
    assert usable(one, "submitit") == one


def test_problems_of_all_shapes_come_together() -> None:
    shapes = [Resources(nodes_per_run=2), Resources(nodes_per_run=3), Resources(nodes_per_run=2, gpus_per_run=0)]
    with pytest.raises(ConfigError) as caught:
        check_backend(shapes, "disbatch", 0, {})
    assert [problem.where for problem in caught.value.problems] == ["nodes_per_run", "nodes_per_run", "--slots"]
