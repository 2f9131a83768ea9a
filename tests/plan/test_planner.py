"""Plans: problems, identity, duplicates, status, cost, explanation, output."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.cli import main
from gpt_opt.cli.views import plan as show
from gpt_opt.config.schema import register
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.estimate import makespan_s
from gpt_opt.plan.existing import Status, nearest_run
from gpt_opt.plan.former_runs import FormerRuns
from gpt_opt.plan.planner import Plan, Planner
from gpt_opt.records.claim import acquire
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.planned_configs import text_of
from gpt_opt.records.run_dir import RunPaths, run_dir_name
from gpt_opt.records.run_id import TRAINING
from gpt_opt.records.state import RunState, State, write_state
from gpt_opt.records.sweep_dir import Shape, Submission, SweepRun, create
from gpt_opt.run.resolvers import parent_dir, register_resolvers, run_label
from gpt_opt.sweep.grid import load_grid
from gpt_opt.sweep.overrides import shell_word
from tests.conftest import CONFIG_DIR, ROOT, Runner

register()
register_resolvers()


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(own_app(CONFIG_DIR))


def sweep_file(folder: Path, content: Any, name: str = "sweep.json") -> Path:
    file = folder / name
    file.write_text(json.dumps(content))
    return file


class Desk:
    """A folder to plan in: sweep files, outputs and sweeps of its own."""

    def __init__(self, folder: Path, planner: Planner) -> None:
        self.folder, self.planner = folder, planner

    def plan(self, content: Any, *extra: str, slots: int = 1) -> Plan:
        output = f"paths.output_dir={self.folder / 'outputs'}"
        return self.planner.plan(sweep_file(self.folder, content), [output, *extra], slots, self.folder / "sweeps")

    def make(self, overrides: tuple[str, ...], state: State | None, step: int = 80, time_s: float = 40.0) -> RunPaths:
        """Makes the run directory of a point as a run would leave it."""
        config = self.planner.config(overrides)
        from gpt_opt.records.run_id import run_id

        paths = RunPaths(parent_dir(config) / run_dir_name(run_label(config, overrides), run_id(config)))
        paths.root.mkdir(parents=True, exist_ok=True)
        paths.config.write_text(to_json(config))
        if state is not None:
            write_state(paths, RunState(run_id(config), state, 1, step=step, total_steps=80))
        if state is State.COMPLETED:
            summary = {"step": step, "time_s": time_s, "device": "cpu", "metrics": {}}
            paths.summary.write_text(to_json(summary))
        return paths


@pytest.fixture
def desk(tmp_path: Path, planner: Planner) -> Desk:
    return Desk(tmp_path, planner)


BETAS = {"loss.beta": [0.05, 0.1, 0.3]}


@pytest.mark.parametrize("file", sorted((ROOT / "params").glob("*.json")), ids=lambda file: file.name)
def test_every_shipped_sweep_plans(file: Path, planner: Planner, tmp_path: Path) -> None:
    plan = planner.plan(file, [f"paths.output_dir={tmp_path}"], sweeps=tmp_path)
    assert len(plan.runs) >= 3
    assert plan.count(Status.NEW) == len(plan.counted)
    assert not list(tmp_path.iterdir())


def test_every_kind_of_status_is_told(desk: Desk) -> None:
    plan = desk.plan({"loss.beta": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]})
    overrides = [run.overrides for run in plan.runs]
    desk.make(overrides[0], State.COMPLETED)
    desk.make(overrides[1], State.FAILED, step=10)
    resumable = desk.make(overrides[2], State.INTERRUPTED, step=40)
    (resumable.checkpoints / "checkpoint-40").mkdir(parents=True)
    desk.make(overrides[3], State.INTERRUPTED, step=3)
    broken = desk.make(overrides[4], None)
    broken.state.write_text('{"state": "COMPL')
    running = desk.make(overrides[5], State.RUNNING, step=7)
    with acquire(running):
        plan = desk.plan({"loss.beta": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]})
    found = [str(run.status) for run in plan.runs]
    assert found == ["done", "failed", "resume", "new", "new", "running", "new"]
    assert show.counts(plan) == {
        "points": 7,
        "runs": 7,
        "new": 3,
        "resume": 1,
        "failed": 1,
        "running": 1,
        "done": 1,
        "collapsed": 0,
    }
    assert "resume at step 40" in show.as_text(plan)


def test_runs_with_a_new_directory_for_every_start_are_always_new(desk: Desk, tmp_path: Path) -> None:
    plan = desk.planner.plan(sweep_file(tmp_path, BETAS), ["paths=local_run_dir", "exp_name=x"], sweeps=tmp_path)
    assert {run.run_dir for run in plan.runs} == {"(a new directory)"}
    assert nearest_run(own_app(), desk.planner.config(plan.runs[0].overrides)) is None


def test_points_with_one_config_are_one_run(desk: Desk) -> None:
    plan = desk.plan({"loss.beta": [0.1, 1e-1, 0.3], "seed": [0], "exp_name": ["a", "b"]})
    assert plan.points == 6
    assert len(plan.runs) == 2
    assert plan.duplicates == {1: 0, 2: 0, 3: 0, 5: 4}
    assert "4 points have the config of an earlier point (1 = 0, 2 = 0, 3 = 0, 5 = 4)" in show.as_text(plan)


def refusal(desk: Desk, content: Any, *extra: str) -> str:
    with pytest.raises(ConfigError) as caught:
        desk.plan(content, *extra)
    return str(caught.value)


@pytest.fixture
def lab(tmp_path: Path) -> Desk:
    """A desk whose config group `resources` has an option `two`: 2 GPUs a run."""
    folder = tmp_path / "hydra_conf"
    shutil.copytree(CONFIG_DIR, folder)
    option = folder / "resources" / "default.yaml"
    option.with_name("two.yaml").write_text(option.read_text().replace("gpus_per_run: null", "gpus_per_run: 2"))
    return Desk(tmp_path, Planner(own_app(folder)))


ZIPPED = {"base": {"loss.beta": 0.1}, "zip": {"seed": [0, 1, 2], "resources.gpus_per_run": [1, 2, 2]}}


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (ZIPPED, [1, 2, 2]),
        (
            {"union": [{"base": {"loss.beta": 0.1}}, {"base": {"loss.beta": 0.3, "resources.gpus_per_run": 2}}]},
            [None, 2],
        ),
        (
            {"base": {"loss.beta": 0.1}, "zip": {"seed": [0, 1, 2], "resources": ["two", "default", "two"]}},
            [2, None, 2],
        ),
        ({"grid": {"loss.beta": [0.1, 0.3], "resources": ["two"]}}, [2, 2]),
    ],
    ids=["zip", "union", "group", "one shape"],
)
def test_what_a_run_needs_may_differ_from_point_to_point(content: Any, asked: list[int | None], lab: Desk) -> None:
    plan = lab.plan(content)
    assert [run.resources.gpus_per_run for run in plan.runs] == asked
    assert [shape.gpus_per_run for shape in plan.shapes] == list(dict.fromkeys(asked))
    flagged = lab.planner.plan(sweep_file(lab.folder, content), sweeps=lab.folder, flags={"gpus_per_run": 4})
    assert {run.resources.gpus_per_run for run in flagged.runs} == {4}, "a flag holds for every point"


@pytest.mark.parametrize(
    "content",
    [
        {"loss.beta": [0.1, 0.2], "resources.gpus_per_run": [1, 2]},
        {"union": [{"base": {"loss.beta": 0.1}}, {"base": {"loss.beta": 0.1, "resources.gpus_per_run": 2}}]},
        {"grid": {"loss.beta": [0.1], "seed": [0, 1], "resources": ["default", "two"]}},
    ],
    ids=["grid", "union", "group"],
)
def test_points_that_are_one_run_must_need_the_same(content: Any, lab: Desk) -> None:
    text = refusal(lab, content)
    assert text.startswith("1 problem")
    assert "resources.gpus_per_run: must be the same for point 0 and point 1, which are one run" in text
    plan = lab.planner.plan(sweep_file(lab.folder, content), sweeps=lab.folder, flags={"gpus_per_run": 4})
    assert plan.points == 2 * len(plan.runs), "a flag holds for every point"


def test_a_literal_is_shown_as_it_stands_in_the_file(desk: Desk) -> None:
    content = {"base": {"loss": "sft", "user.b": "C:\\${x}"}, "grid": {"user.a": ["${seed}", "plain"]}}
    text = show.as_text(desk.plan(content))
    assert "user.b='C:\\${x}'" in text
    assert "0      '${seed}'  " in text


def test_a_plan_shows_each_shape_with_what_it_costs(desk: Desk) -> None:
    text = show.as_text(plan := desk.plan(ZIPPED, "resources.time_min=30"))
    assert "shape 0: 1 run, each 1 GPU, 30 min\nshape 1: 2 runs, each 2 GPUs, 30 min\ncost: unknown" in text
    desk.make(plan.runs[0].overrides, State.COMPLETED, step=80, time_s=36.0)
    fresh = {**ZIPPED, "zip": {"seed": [7, 8, 9], "resources.gpus_per_run": [1, 2, 2]}}
    text = show.as_text(plan := desk.plan(fresh))
    assert "shape 1: 2 runs, each 2 GPUs; about 36 s a run, 0.04 GPU-hours, 72 s on 1 slot" in text
    assert "cost: about 36 s a run, 0.05 GPU-hours, 72 s on 1 slot for each shape (from 1 finished run of" in text
    record = show.as_record(plan)
    assert [item["shape"] for item in record["items"]] == [0, 1, 1]
    assert [shape["resources"] for shape in record["shapes"]] == [{"gpus_per_run": 1}, {"gpus_per_run": 2}]
    assert [shape["price"]["wall_s"] for shape in record["shapes"]] == [36.0, 72.0]


def test_the_same_resources_said_at_two_places_are_no_difference(desk: Desk) -> None:
    content = {
        "base": {"loss.beta": 0.1},
        "resources": {"gpus_per_run": 2},
        "union": [{"seed": [0, 1]}, {"base": {"resources.gpus_per_run": 2, "seed": 2}}],  # the group says null
    }
    (shape,) = desk.plan(content).shapes
    assert shape.gpus_per_run == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fsdp": "full_shard"}, "fsdp: shards a training over processes, so gpus_per_run must be at least 2"),
        ({"training.training_params.micro_batch_size": 16, "resources.gpus_per_run": 2}, "16 / (16 x 2) = 0.5"),
        ({"resources.mem_gb": -1.0}, "resources.mem_gb: (memory of one run, in GB) must be a number above 0"),
        ({"rerun": True}, "rerun: must be false in a sweep"),
        ({"dry_run": True}, "dry_run: must be false in a sweep"),
        ({"hydra.mode": "MULTIRUN"}, "hydra.mode: must not be in a sweep"),
        ({"hydra/launcher": "submitit_local"}, "hydra/launcher: must not be in a sweep"),
    ],
)
def test_what_would_fail_in_every_run_or_be_ignored_does_not_pass_the_plan(
    desk: Desk, content: Any, message: str
) -> None:
    text = refusal(desk, {"base": {"loss.beta": 0.1, **content}, "grid": {"seed": [0, 1]}})
    assert text.startswith("1 problem")
    assert message in text


def test_an_experiment_that_is_a_sweep_is_not_read_by_half(tmp_path: Path) -> None:
    folder = tmp_path / "hydra_conf"
    shutil.copytree(CONFIG_DIR, folder)
    text = "# @package _global_\nhydra: {sweeper: {params: {loss.beta: '0.1,0.2', seed: '0,1'}}}\n"
    (folder / "exp" / "many.yaml").write_text(text)
    desk = Desk(tmp_path, Planner(own_app(folder)))
    assert "exp: +exp=many is a sweep of its own over seed" in refusal(desk, {"loss.beta": [0.1], "+exp": ["many"]})
    assert len(desk.plan({"loss.beta": [0.1], "+exp": ["many"], "seed": [3]}).runs) == 1


def test_points_that_differ_only_in_what_changes_no_result_are_told(desk: Desk) -> None:
    plan = desk.plan({"loss.beta": [0.1, 1e-1], "logging.logging_params.log_level": ["info", "debug"]})
    assert len(plan.runs) == 1
    assert plan.uncounted == ("logging.logging_params.log_level",)
    assert "differ in logging.logging_params.log_level alone are one run" in show.as_text(plan)


def test_two_spellings_of_a_file_are_one_run(
    tmp_path: Path, small: list[str], run_hydra: Runner, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sweep, from the command line after it, and wherever the command is typed."""
    (tmp_path / "link.jsonl").symlink_to("pairs.jsonl")
    (tmp_path / "below").mkdir()
    rest = [item for item in small if not item.startswith("data.dataset.path")]
    names = [f"{tmp_path}/pairs.jsonl", "pairs.jsonl", "./pairs.jsonl", "below/../pairs.jsonl", "link.jsonl"]
    grid = {"base": {"loss.beta": 0.1}, "grid": {"data.dataset.path": names}}
    file = sweep_file(tmp_path, grid)
    monkeypatch.chdir(tmp_path)
    plan = planner.plan(file, rest, sweeps=tmp_path)
    assert plan.duplicates == {1: 0, 2: 0, 3: 0, 4: 0}
    done = run_hydra([*rest, "loss.beta=0.1", "data.dataset.path=../link.jsonl"], cwd=tmp_path / "below")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = planner.plan(file, rest, sweeps=tmp_path).runs
    assert run.status is Status.DONE
    config = json.loads((Path(run.run_dir) / "config.json").read_text())
    assert config["data"]["dataset"]["path"] == os.path.realpath(tmp_path / "pairs.jsonl")
    found = nearest_run(own_app(), planner.config(run.overrides))
    assert found is not None
    assert found.differs == {}
    model = planner.config(["loss.beta=0.1", "model=hf", "model.name_or_path=below"])
    assert parent_dir(model) == parent_dir(planner.config(["loss.beta=0.1", "model=hf", "model.name_or_path=./below"]))


def test_order_and_logging_change_no_id_and_an_edited_default_changes_all(
    desk: Desk, tmp_path: Path, planner: Planner
) -> None:
    ids = {run.run_id for run in desk.plan(BETAS).runs}
    assert {run.run_id for run in desk.plan({"loss.beta": [0.3, 0.05, 0.1]}).runs} == ids
    assert {run.run_id for run in desk.plan(BETAS, "logging.logging_params.log_level=debug").runs} == ids
    assert {run.run_id for run in desk.plan(BETAS, "seed=1").runs}.isdisjoint(ids)
    edited = tmp_path / "hydra_conf"
    subprocess.run(["cp", "-r", str(CONFIG_DIR), str(edited)], check=True)
    file = edited / "optimizer" / "adamw.yaml"
    file.write_text(file.read_text().replace("lr: 3e-4", "lr: 2e-4"))
    other = Desk(tmp_path, Planner(own_app(edited)))
    assert {run.run_id for run in other.plan(BETAS).runs}.isdisjoint(ids)
    back = other.plan({**BETAS, "optimizer.optimizer_params.lr": [3e-4]})
    assert {run.run_id for run in back.runs} == ids


def test_a_mistake_of_many_points_is_one_line(desk: Desk) -> None:
    grid = {
        "loss.beta": [0.1, -1.0],
        "seed": list(range(50)),
        "optimizer": ["adamw", "adagrad"],
        "training.training_params.micro_batch_size": [5],
    }
    with pytest.raises(ConfigError) as caught:
        desk.plan(grid)
    text = str(caught.value)
    assert text.startswith("3 problems")
    assert "but is 'adagrad' (100 of 200 points, the first is point 1)" in text
    assert "is -1.0 (100 of 200 points, the first is point 100)" in text
    assert "16 / (5 x 1) = 3.2" in text


def test_unknown_keys_wrong_types_and_missing_values_are_told_together(desk: Desk, tmp_path: Path) -> None:
    content = {"union": [{"loss.betta": [1]}, {"loss.beta": [0.1], "seed": ["x"]}, {"base": {"data": "jsonl"}}]}
    with pytest.raises(ConfigError) as caught:
        desk.plan(content)
    text = str(caught.value)
    assert f"{tmp_path / 'sweep.json'}:1 loss.betta: is not a key" in text
    assert "did you mean loss.beta?" in text
    assert "seed=x: must be an integer, but is 'x'" in text
    assert "data.dataset.path: is mandatory" in text
    assert "loss.beta: is mandatory" in text


def test_the_cost_is_unknown_without_and_from_runs_of_the_same_workload(desk: Desk) -> None:
    plan = desk.plan(BETAS)
    assert plan.cost.run_s is None
    assert "cost: unknown" in show.as_text(plan)
    desk.make(plan.runs[0].overrides, State.COMPLETED, step=80, time_s=40.0)
    plan = desk.plan({"loss.beta": [0.05, 0.1, 0.3, 0.5], "training.training_params.max_steps": [80, 160]}, slots=2)
    # 0.5 s a step: three runs of 80 steps remain and four of 160.
    assert plan.cost.run_s == pytest.approx(80.0)
    assert plan.cost.wall_s == pytest.approx(makespan_s([80, 40, 80, 40, 80, 40, 80], 2))
    assert plan.cost.gpu_hours == 0.0
    assert plan.cost.samples == 1
    other = desk.plan({**BETAS, "model.config.n_layer": [2], "model.archive": [None]})
    assert other.cost.unknown == 3
    epochs = desk.plan({**BETAS, "training.training_params.max_steps": None, "training.training_params.num_epochs": 1})
    assert epochs.cost.gpu_hours is None


def test_only_what_remains_of_a_resumed_run_is_paid(desk: Desk) -> None:
    runs = desk.plan(BETAS).runs
    desk.make(runs[0].overrides, State.COMPLETED, step=80, time_s=40.0)
    paths = desk.make(runs[1].overrides, State.INTERRUPTED, step=60)
    (paths.checkpoints / "checkpoint-60").mkdir(parents=True)
    assert desk.plan({"loss.beta": [0.1]}).cost.wall_s == pytest.approx(10.0)


def test_the_makespan_is_that_of_slots_that_take_runs_in_order() -> None:
    assert makespan_s([3, 1, 1, 1], 2) == 3
    assert makespan_s([1, 1, 3], 2) == 4
    assert makespan_s([], 4) == 0


def test_runs_of_earlier_submissions_that_left_the_grid_are_named(desk: Desk, tmp_path: Path) -> None:
    first = desk.plan(BETAS)
    submit(desk, first)
    plan = desk.plan({"loss.beta": [0.05, 0.1, 0.2]})
    assert plan.former == FormerRuns(removed={first.runs[2].run_id: first.runs[2].run_dir})
    assert "1 run of earlier submissions is no longer in the grid" in show.as_text(plan)


def submit(desk: Desk, plan: Plan) -> None:
    """Makes the sweep directory of a plan."""
    runs = [
        SweepRun(run.index, run.run_id, run.run_dir, run.overrides, 0, run.stage, run.number, run.parent, run.choice)
        for run in plan.runs
    ]
    (parent := desk.folder / "sweeps" / "sweep").mkdir(parents=True, exist_ok=True)
    configs = text_of((run.run_id, changes) for run, changes in zip(plan.runs, plan.configs, strict=True))
    submission = Submission("sweep", "sweep.json", (), "local", (Shape({}, 1),), None, "/", "/")
    create(parent, "{}", runs, submission, lambda sweep: write_text(sweep.planned_configs, configs))


@pytest.mark.parametrize("staged", [False, True])
def test_points_that_compose_another_config_after_an_edit_are_still_in_the_grid(
    desk: Desk, tmp_path: Path, staged: bool
) -> None:
    shutil.copytree(CONFIG_DIR, configs := tmp_path / "hydra_conf")
    file = configs / "loss" / "dpo.yaml"
    desk = Desk(tmp_path, Planner(own_app(configs)))
    dpo = {"base": {"loss": "dpo"}, "grid": {"loss.beta": [0.1, 0.2]}}
    content: Any = {"stages": [{"name": "a", **dpo}, {"name": "b", "base": {"loss": "sft"}}]} if staged else dpo
    first = desk.plan(content)
    submit(desk, first)
    file.write_text(file.read_text().replace("label_smoothing: 0.0", "label_smoothing: 0.1"))
    desk = Desk(tmp_path, Planner(own_app(configs)))
    plan = desk.plan(content)
    assert plan.former.edited == {run.run_id: run.run_dir for run in first.runs}
    assert plan.former.edits == ["loss.label_smoothing was 0.0 and is 0.1"]
    text = show.as_text(plan)
    assert f"points of {len(first.runs)} runs of earlier submissions compose another config now:" in text
    assert "loss.label_smoothing was 0.0 and is 0.1" in text
    assert "no longer in the grid" not in text
    record = show.as_record(plan)
    assert (len(record["edited"]), record["gone"]) == (len(first.runs), [])


def test_the_nearest_run_and_what_differs_are_found(desk: Desk) -> None:
    runs = desk.plan({"loss.beta": [0.1, 0.2], "seed": [0, 1]}).runs
    desk.make(runs[0].overrides, State.COMPLETED)
    desk.make(runs[1].overrides, State.FAILED)
    wanted = desk.plan({"loss.beta": [0.2], "seed": [1]}).runs[0]
    found = nearest_run(own_app(), desk.planner.config(wanted.overrides))
    assert found is not None
    assert found.differs == {"loss.beta": (0.1, 0.2)}
    assert found.status is Status.FAILED
    text = show.explanation(wanted, found)
    assert "loss.beta  0.1 there, 0.2 here" in text
    assert TRAINING.differences({"a": 1, "b": {"c": 1}}, {"a": 1.0, "b": {}}) == {
        "a": (1, 1.0),
        "b": ("(absent)", {}),
        "b.c": (1, "(absent)"),
    }


def test_a_long_plan_shows_its_first_and_last_rows(desk: Desk) -> None:
    plan = desk.plan({"loss.beta": [0.1], "seed": list(range(100))})
    lines = show.as_text(plan).splitlines()
    assert len(lines) < 30
    assert any(line.startswith("...") for line in lines)
    assert any(line.startswith("99 ") for line in lines)
    assert "loss.beta=0.1" in lines[1]


def test_override_lines_survive_a_shell(desk: Desk, tmp_path: Path) -> None:
    name = "it's $(touch X) \n \\ \"#"
    plan = desk.plan({"loss.beta": [0.1], "exp_name": [name]})
    line = show.override_lines(plan)
    assert "\n" not in line
    script = f"printf '%s\\0' {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, cwd=tmp_path, check=True)
    assert tuple(done.stdout.decode().split("\0")[:-1]) == plan.runs[0].overrides
    assert not (tmp_path / "X").exists()
    assert shlex.split(shell_word("plain=1")) == ["plain=1"]


def test_the_command_speaks_text_json_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(sweep_file(tmp_path, BETAS))
    output = f"paths.output_dir={tmp_path / 'outputs'}"
    assert main(["plan", file, output]) == 0
    assert "3 points, 3 runs" in capsys.readouterr().out
    assert main(["plan", file, output, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {
        "sweep",
        "points",
        "runs",
        "new",
        "done",
        "resume",
        "failed",
        "running",
        "collapsed",
        "errors",
        "items",
    } <= set(record)
    of_stages = {"stage", "number", "parent", "choice"}
    of_runs = {"index", "run_id", "run_dir", "overrides", "shape", "status", "changed", "code"}
    assert set(record["items"][0]) == of_runs | of_stages
    assert main(["plan", file, output, "--overrides"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["plan", file, output, "--explain", "1"]) == 0
    assert "there is no other run" in capsys.readouterr().out
    assert main(["plan", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"]
    assert main(["plan", file, "seeed=1", "--json"]) == 2
    streams = capsys.readouterr()
    assert json.loads(streams.out)["errors"][0]["fix"] == "did you mean seed?"
    assert "did you mean seed?" in streams.err
    assert not (tmp_path / "outputs").exists()
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    assert main(["plan", str(bad)]) == 2
    assert "bad.json:1" in capsys.readouterr().err


def test_a_point_reached_from_json_and_from_the_command_line_is_one_run(
    tmp_path: Path, small: list[str], run_hydra: Runner, planner: Planner
) -> None:
    done = run_hydra([*small, "loss.beta=0.1"])
    assert done.returncode == 0, done.stdout + done.stderr
    plan = planner.plan(sweep_file(tmp_path, {"loss.beta": [0.1, 0.2]}), small, sweeps=tmp_path)
    assert [run.status for run in plan.runs] == [Status.DONE, Status.NEW]
    second = run_hydra(list(plan.runs[1].overrides))
    assert second.returncode == 0, second.stdout + second.stderr
    assert (Path(plan.runs[1].run_dir) / "summary.json").exists()
    third = run_hydra(["-m", *small, "loss.beta=0.1,0.2"])
    assert third.stdout.count("already complete") == 2


def test_help_starts_at_once_and_plan_loads_no_torch() -> None:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gpt_opt.cli", "--help"], check=True, capture_output=True)
    assert time.perf_counter() - started < 3  # 0.05 s on a quiet machine; the benchmark has the number
    code = "import sys; from gpt_opt.cli import main; main(['plan', 'params/beta_sweep.json'])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_ordinary_grid_takes_the_fast_path(tmp_path: Path) -> None:
    planner = Planner(own_app(CONFIG_DIR))
    grid = {
        "optimizer": ["adamw", "rmsprop"],
        "loss.beta": {"linspace": [0.05, 0.5, 10]},
        "optimizer.optimizer_params.lr": {"logspace": [1e-5, 1e-3, 10]},
        "seed": {"range": [0, 10]},
    }
    plan = planner.plan(sweep_file(tmp_path, grid), [f"paths.output_dir={tmp_path}"], sweeps=tmp_path)
    assert len(plan.runs) == 2000
    assert planner._checker.composer.fast == 2000
    assert load_grid(tmp_path / "sweep.json").name == "sweep"


def test_targets_are_looked_up_while_planning(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"base": {"loss.beta": 0.1, "collator": {"_target_": "elsewhere_17.Short"}}, "grid": {"seed": [0, 1]}}
    assert len(desk.plan(content).runs) == 2
    (warning,) = caplog.messages
    assert warning.startswith("warning: collator._target_: the module 'elsewhere_17' of 'elsewhere_17.Short' is not on")
    monkeypatch.syspath_prepend(str(desk.folder))
    (desk.folder / "here_17.py").write_text("class Shorter: ...\n")
    content["base"]["collator"] = {"_target_": "here_17.Short"}
    text = refusal(desk, content)
    assert text.startswith("1 problem")
    assert "collator._target_: the module here_17 has no 'Short'" in text
    assert "did you mean here_17.Shorter?" in text


def test_a_training_that_goes_on_has_what_it_started_from(desk: Desk) -> None:
    stages = [{"name": "a", "base": {"loss": "sft"}}, {"name": "b", "base": {"loss": "sft", "seed": 3}}]
    resumed = {"name": "c", "from": {"resume": True}, "base": {"loss": "sft", "training.training_params.max_steps": 90}}
    first, second, third = desk.plan({"stages": [*stages, resumed]}).runs
    assert f"model.archive=run:{first.run_id}" in third.overrides
    assert f"training.finetuning.resume_from_checkpoint=run:{second.run_id}" in third.overrides


def test_stages_share_no_runs_that_a_choice_decides_on(desk: Desk) -> None:
    rates = {"name": "sft", "base": {"loss": "sft"}, "grid": {"seed": [0, 1]}}
    dpo = {"base": {"loss": "dpo", "loss.beta": 0.1}}
    best = {"name": "best", "from": {"stage": "sft", "best": "eval/loss"}, **dpo}
    every = {"name": "every", "from": "sft", **dpo}
    for stages in ([rates, best, every], [rates, every, best]):
        with pytest.raises(ConfigError, match="must not share runs with stage"):
            desk.plan({"stages": stages})
    assert len(desk.plan({"stages": [rates, every, {**every, "name": "again"}]}).counted) == 4


SFT = {"name": "sft", "base": {"loss": "sft"}, "grid": {"seed": [0, 1]}}


def chosen_by(name: str, **more: Any) -> dict[str, Any]:
    dpo = {"name": "dpo", "base": {"loss": "dpo", "loss.beta": 0.1}}
    return {"stages": [SFT, {**dpo, "from": {"stage": "sft", "best": name, **more}}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"metric": {"name": "eval/los", "goal": "minimize"}, "base": {"loss": "sft"}}, "did you mean eval/loss?"),
        ({"metric": {"name": "eval/kl", "goal": "minimize"}, "base": {"loss": "sft"}}, "'eval/kl'"),
        (
            {"metric": {"name": "throughput", "goal": "maximize"}, "base": {"loss": "sft"}},
            "take one of loss, eval/loss",
        ),
        (chosen_by("eval/lss"), "best must be a metric of the runs, but is 'eval/lss'\n      did you mean eval/loss?"),
        (chosen_by("eval/accuracy", goal="maximize"), "'eval/accuracy'"),
    ],
)
def test_a_metric_that_no_run_will_have_is_told_before_anything_is_trained(
    desk: Desk, content: Any, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        desk.plan(content)
    assert message in str(error.value)
    assert "point" not in str(error.value)


def test_a_metric_that_one_stage_has_is_that_of_the_sweep(desk: Desk) -> None:
    for name in ("eval/rewards/accuracies", "eval/logps/chosen", "time_s", "learning_rate"):
        desk.plan({**chosen_by("eval/loss"), "metric": {"name": name, "goal": "maximize"}})


def test_a_metric_that_callbacks_may_log_is_a_warning(desk: Desk) -> None:
    callbacks = {"callbacks": [{"_target_": "transformers.TrainerCallback"}]}
    plan = desk.plan({"metric": {"name": "eval/los", "goal": "minimize"}, "base": {"loss": "sft", **callbacks}})
    said = "metric: no run is known to have 'eval/los'; unless your code logs it, did you mean eval/loss?"
    assert plan.warnings == (said,)
    assert f"warning: {said}" in show.as_text(plan)
    assert show.as_record(plan)["warnings"] == [said]
    staged = chosen_by("eval/los", goal="minimize")
    assert "did you mean eval/loss?" in desk.plan({**staged, "base": callbacks}).warnings[0]
    with pytest.raises(ConfigError, match=r'did you mean eval/loss\? if not, add "goal"'):
        desk.plan({**chosen_by("eval/los"), "base": callbacks})


def test_finished_candidates_without_the_metric_are_told(desk: Desk) -> None:
    callbacks = {"callbacks": [{"_target_": "transformers.TrainerCallback"}]}
    content = {**chosen_by("eval/pass_rates", goal="maximize"), "base": callbacks}
    record = {"step": 80, "time_s": 4.0, "metrics": {"eval/pass_rate": None, "eval/loss": 0.5}}
    candidates = [run for run in desk.plan(content).runs if run.stage == "sft"]
    for run in candidates:
        assert "no run is known to have 'eval/pass_rates'" in desk.plan(content).warnings[0], "an open one may have it"
        desk.make(run.overrides, State.COMPLETED).summary.write_text(to_json(record))
    with pytest.raises(
        ConfigError, match=r"none of the 2 runs that are done has 'eval/pass_rates'\n *did you mean eval/pass_rate\?"
    ):
        desk.plan(content)
    assert not desk.plan({**chosen_by("eval/pass_rate", goal="maximize"), "base": callbacks}).warnings


def test_what_looks_like_an_interpolation_is_text_and_told(desk: Desk) -> None:
    grid = {"loss": "sft", "user.text": ["a ${seed}", "b"], "user.list": [["${seed}"]], "user.plain": ["$(x)"]}
    said = "${...} in user.text, user.list is text: values of a sweep file are never interpolated"
    assert desk.plan({"grid": grid}).warnings == (said,)
    with pytest.raises(ConfigError) as error:
        desk.plan({"base": {"loss": "sft"}, "grid": {"optimizer.optimizer_params.lr": ["${seed}"]}})
    assert "dereferencing" not in str(error.value)
    assert "must be a number, but is '${seed}'\n      values of a sweep file are never interpolated" in str(error.value)
    assert "'optimizer.optimizer_params.lr=${...}' after the file" in str(error.value)
    desk.plan({"loss": "sft"}, "optimizer.optimizer_params.lr=${seed}", "seed=1")
