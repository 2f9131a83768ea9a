"""python -m analysis.sensitivity: what is compared, which point is best, the target, the figure, what is next."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.image import imread

from analysis import load_runs
from analysis.answers import reach
from analysis.answers.fates import DIVERGED
from analysis.next_sweeps import read_overrides
from analysis.plots.optimum import draw
from analysis.sensitivity.__main__ import main
from analysis.sensitivity.budget import Asked, left_out
from analysis.sensitivity.compare import Curve, curves
from gpt_opt.config.schema import register
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.planner import Planner
from gpt_opt.records.io import write_text
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Shape, Submission, SweepRun, create
from gpt_opt.run.resolvers import register_resolvers
from gpt_opt.sweep.grid import parse_grid
from gpt_opt.sweep.points import points
from tests.conftest import CONFIG_DIR, ROOT

register()
register_resolvers()

MakeRun = Callable[..., RunPaths]
Try = Callable[..., RunPaths]

LR = "optimizer.optimizer_params.lr"
DECAY = "optimizer.optimizer_params.weight_decay"
TOKENS = 1000


@pytest.fixture
def attempt(make_run: MakeRun) -> Try:
    """Makes a run of an optimizer as Hydra would start it, with a curve that falls straight from 4 to its end."""

    def make(
        optimizer: str, lr: float, end: float, seed: int = 0, tokens: int = TOKENS, more: Any = None, **fields: Any
    ) -> RunPaths:
        more = more or {}
        config = {"optimizer.optimizer_params.name": optimizer, LR: lr, "seed": seed, **more}
        curve = [{"step": 0, "eval/loss": 4.0}, {"step": 50, "loss": 3.0, "tokens_per_second": 20.0}]
        curve += [{"step": 100, "tokens_per_second": 20.0}, {"step": 100, "eval/loss": end}]
        final = {"eval/loss": end, "kl": -end} if fields.get("state", State.COMPLETED) is State.COMPLETED else None
        paths = make_run(config, rows=curve, final=final, **{"step": 100, "total_steps": 100, **fields})
        if final is not None:
            summary = json.loads(paths.summary.read_text())
            write_text(paths.summary, json.dumps(summary | {"tokens": tokens, "step": 100}))
        texts = [f"optimizer={optimizer}", "loss=sft", f"{LR}={lr}", f"seed={seed}"]
        paths.hydra.mkdir(exist_ok=True)
        write_text(paths.hydra / "overrides.yaml", yaml.safe_dump(texts + [f"{k}={v}" for k, v in more.items()]))
        return paths

    return make


def compare(outputs: Path, asked: Asked | None = None) -> dict[str, Curve]:
    runs, asked = load_runs(outputs), asked or Asked()
    return {curve.name: curve for curve in curves(runs, left_out(runs, asked), asked)}


def sweep_in(text: str) -> dict[str, Any]:
    """Returns the sweep file that was printed."""
    document: dict[str, Any] = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    return document


def planned(document: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Returns the configs of the runs that the planner makes of a sweep file."""
    file = folder / "next.json"
    file.write_text(json.dumps(document))
    planner = Planner(own_app(CONFIG_DIR))
    plan = planner.plan(file, [f"paths.output_dir={folder / 'planned'}"], 1, folder / "sweeps")
    return [planner.config(run.overrides) for run in plan.runs]


def test_interior_and_edge_optima(attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lr, end in ((0.001, 2.5), (0.003, 2.0), (0.01, 2.4)):
        attempt("adamw", lr, end)
        attempt("rmsprop", lr, 4 - end)
    attempt("sgd", 0.1, 3.0)
    for lr, end in ((0.001, 2.1), (0.003, 2.2)):
        attempt("nadamw", lr, end)
    found = compare(outputs)
    assert {name: (curve.at, curve.optimum) for name, curve in found.items()} == {
        "rmsprop": (0.001, "lowest"),
        "adamw": (0.003, "interior"),
        "nadamw": (0.001, "lowest"),
        "sgd": (0.1, "only"),
    }
    assert main([str(outputs)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0].split()[:3] == ["optimizer", "lr", "eval"]
    assert [line.split()[0] for line in lines[1:5]] == ["rmsprop", "adamw", "nadamw", "sgd"]
    assert lines[2].split()[:4] == ["adamw", "0.003", "2.0000", "1"]
    assert lines[2].endswith("interior")
    assert "nadamw: the best lr, 0.001, is the lowest that was tried" in lines
    assert "sgd: 0.1 is the only lr that was tried" in lines
    assert "\nadamw: " not in printed.out
    grids = {member["base"]["optimizer"]: member["grid"] for member in sweep_in(printed.out)["union"]}
    assert grids == {
        "rmsprop": {LR: [0.000111, 0.000333], "seed": [0]},
        "nadamw": {LR: [0.000111, 0.000333], "seed": [0]},
        "sgd": {LR: [0.01, 0.0316, 0.316, 1.0], "seed": [0]},
    }


def test_the_sweep_file_that_extends_is_one_that_the_planner_accepts(
    attempt: Try, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decay = {DECAY: 0.1, "training.training_params.max_grad_norm": 0.5}
    for lr, end in ((1e-4, 2.5), (1e-3, 2.0)):
        attempt("adamw", lr, end, more=decay)
        attempt("rmsprop", lr, end)
    file = tmp_path / "wider.json"
    assert main([str(outputs), "--extend", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"sweep file: {file}" in printed
    assert "{" not in printed
    document = json.loads(file.read_text())
    assert document["base"] == {"loss": "sft"}
    assert document["metric"] == {"name": "eval/loss", "goal": "minimize"}
    found = [dict(point.items) for point in points(parse_grid(file.read_text()).stages[0].space)]
    assert [(point["optimizer"], point[LR], point.get(DECAY)) for point in found] == [
        ("adamw", 0.01, 0.1), ("adamw", 0.1, 0.1), ("rmsprop", 0.01, None), ("rmsprop", 0.1, None),
    ]  # fmt: skip
    configs = planned(document, tmp_path)
    assert [config["optimizer"]["optimizer_params"]["lr"] for config in configs] == [0.01, 0.1] * 2
    assert [config["training"]["training_params"]["max_grad_norm"] for config in configs] == [0.5, 0.5, 1.0, 1.0]


def test_seeds_are_added_at_the_best_points(
    attempt: Try, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for optimizer in ("adamw", "rmsprop"):
        for lr, end in ((0.001, 2.5), (0.003, 2.0), (0.01, 2.4)):
            attempt(optimizer, lr, end)
    for seed in (1, 2):
        attempt("rmsprop", 0.003, 2.1, seed)
    file = tmp_path / "seeds.json"
    assert main([str(outputs), "--seeds", str(file), "--extend", str(tmp_path / "none.json")]) == 0
    assert "every optimum is interior" in capsys.readouterr().out
    assert not (tmp_path / "none.json").exists()
    document = json.loads(file.read_text())
    assert document["union"] == [{"base": {}, "grid": {"seed": [0, 1, 2]}}]
    assert document["base"] == {"optimizer": "adamw", "loss": "sft", LR: 0.003}
    assert [config["seed"] for config in planned(document, tmp_path)] == [0, 1, 2]
    for seed in (1, 2):
        attempt("adamw", 0.003, 2.0 + seed / 10, seed)
    assert main([str(outputs), "--seeds", str(file)]) == 0
    assert "every best point has 3 seeds" in capsys.readouterr().out


def test_mean_and_spread_are_over_seeds_and_further_seeds_change_no_choice(
    attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr, end in ((0.001, 2.5), (0.003, 2.0), (0.01, 2.05)):
        attempt("adamw", lr, end)
    for seed, end in ((1, 2.2), (2, 2.4)):
        attempt("adamw", 0.003, end, seed)
    curve = compare(outputs)["adamw"]
    assert curve.at == 0.003
    assert curve.seeds == {0}
    assert main([str(outputs), "--target", "3"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[1:6] == ["0.003", "2.2000", "±", "0.2000", "3"]
    # A line from 4 at step 0 to the end at step 100; 10 tokens a step, 20 tokens a second.
    steps = [100 * 1 / (4 - end) for end in (2.0, 2.2, 2.4)]
    center, width = np.mean(steps), np.std(steps, ddof=1)
    assert " ".join(row[6:12]) == f"{center:.1f} ± {width:.1f} {center / 2:.1f} ± {width / 2:.1f}"
    table = pd.read_csv(outputs / "sensitivity.csv")
    assert table.loc[0, "steps"] == pytest.approx(np.mean(steps))
    assert table.loc[0, "eval/loss std"] == pytest.approx(0.2)
    assert table.loc[0, ["runs", "diverged", "reached"]].tolist() == [3, 0, 3]


def test_a_target_that_some_seeds_do_not_reach(attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lr, seed, end in ((0.001, 0, 3.5), (0.003, 0, 2.0), (0.003, 1, 3.0)):
        attempt("adamw", lr, end, seed)
        attempt("sgd", lr, 3.9, seed)
    assert main([str(outputs), "--target", "2.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "75.0 (1 of 2)" in lines[1]
    assert lines[2].split()[:2] == ["sgd", "0.001"]
    assert lines[2].split()[3:8] == ["1", "not", "reached", "not", "reached"]


def test_losses_of_unequal_budgets_are_not_mixed(
    attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr, end in ((0.001, 2.5), (0.003, 2.0), (0.01, 2.4)):
        attempt("adamw", lr, end)
    attempt("adamw", 0.001, 1.0, tokens=2 * TOKENS)
    attempt("adamw", 0.003, 1.1, tokens=2 * TOKENS)
    attempt("adamw", 0.003, 2.05, seed=1, tokens=TOKENS + 5)
    assert compare(outputs)["adamw"].at == 0.003
    assert main([str(outputs)]) == 0
    printed = capsys.readouterr().out
    assert "4 runs of 1,000 tokens" in printed
    assert printed.count("other budget: 2,000 tokens") == 2
    assert main([str(outputs), "--tokens", "2000"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs of 2,000 tokens" in printed
    assert "adamw: the best lr, 0.001, is the lowest that was tried" in printed
    assert main([str(outputs), "--tokens", "3000"]) == 2
    assert "but there are runs of 1,000, 1,005, 2,000 alone" in capsys.readouterr().err


def test_failed_unfinished_and_diverged_runs_are_named(
    attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt("adamw", 0.001, 2.5)
    attempt("adamw", 0.003, 2.0)
    blown = {"type": DIVERGED, "message": "loss is NaN at step 12", "traceback": ""}
    attempt("adamw", 0.01, math.nan, state=State.FAILED, error=blown)
    attempt("adamw", 0.02, 1.0, state=State.FAILED, error={"type": "RuntimeError", "message": "?", "traceback": ""})
    attempt("adamw", 0.04, 1.0, state=State.RUNNING)
    attempt("adamw", 0.05, math.nan)
    curve = compare(outputs)["adamw"]
    assert (curve.at, curve.optimum) == (0.003, "interior")  # a rate at which training diverges was tried
    assert [(value, item.n) for value, item in curve.profile.items()] == [(0.001, 1), (0.003, 1), (0.01, 0)]
    assert main([str(outputs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("left out: 4") + 1
    assert lines[start : start + 4] == [
        "  lr=0.01: diverged",
        "  lr=0.02: failed",
        "  lr=0.05: no value of eval/loss",
        "  lr=0.04: not finished",
    ]


def test_a_run_that_diverged_in_another_budget_bounds_nothing(attempt: Try, outputs: Path) -> None:
    attempt("adamw", 0.001, 2.5)
    attempt("adamw", 0.003, 2.0)
    blown = {"type": DIVERGED, "message": "loss is NaN at step 12", "traceback": ""}
    attempt("adamw", 0.01, math.nan, state=State.FAILED, error=blown, total_steps=5000)
    assert compare(outputs)["adamw"].optimum == "highest"


def test_a_point_of_which_one_seed_diverged_is_not_the_best(attempt: Try, outputs: Path) -> None:
    blown = {"type": DIVERGED, "message": "loss is NaN at step 12", "traceback": ""}
    for seed in (0, 1):
        attempt("adamw", 0.001, 2.5, seed)
    attempt("adamw", 0.003, 2.0)
    attempt("adamw", 0.003, math.nan, 1, state=State.FAILED, error=blown)
    assert compare(outputs)["adamw"].at == 0.001


def test_an_optimizer_of_which_every_run_diverged(
    attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blown = {"type": DIVERGED, "message": "loss is NaN at step 12", "traceback": ""}
    for lr in (0.1, 1.0):
        attempt("adamw", lr, 2.0 + lr)
        attempt("sgd", lr, math.nan, state=State.FAILED, error=blown)
    assert main([str(outputs)]) == 0
    printed = capsys.readouterr().out
    assert "sgd: every run diverged, the lowest lr was 0.1" in printed
    document = sweep_in(printed)
    assert {"base": {"optimizer": "sgd"}, "grid": {LR: [0.001, 0.01], "seed": [0]}} in document["union"]


def test_the_name_of_the_error_of_a_diverged_training() -> None:
    assert f"class {DIVERGED}(" in (ROOT / "gpt_opt" / "training" / "failures.py").read_text()  # without torch


def test_weight_decay_is_tuned_too(attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = {(0.001, 0.0): 2.5, (0.001, 0.1): 2.4, (0.003, 0.0): 2.2, (0.003, 0.1): 2.3}
    for (lr, decay), end in ends.items():
        attempt("adamw", lr, end, more={DECAY: decay})
        attempt("sgd", lr, end + 0.5)
    curve = compare(outputs)["adamw"]
    assert [item.finals for item in curve.profile.values()] == [[2.4], [2.2]]
    assert main([str(outputs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["optimizer", "lr", "weight_decay"]
    assert lines[1].split()[:3] == ["adamw", "0.003", "0"]
    assert lines[2].split()[:3] == ["sgd", "0.003", "-"]


def test_runs_of_an_earlier_version_are_compared_with_those_of_now(
    attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt("adamw", 0.001, 2.5)
    attempt("adamw", 0.003, 2.0, more={"optimizer.optimizer_params.cautious_weight_decay": False})
    attempt("adamw", 0.01, 2.2, more={"data.dataset.text_column": "text"})
    attempt("adamw", 0.02, 2.2).summary.write_text("{")
    assert main([str(outputs)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split()[:4] == ["optimizer", "lr", "eval", "loss"]
    assert "3 runs of 1,000 tokens" in printed.out
    assert printed.err.startswith("problem: ")
    attempt("adamw", 0.02, 2.2, more={"model.config.enable_mup_with_base_n_embd": 64})
    assert main([str(outputs)]) == 2
    assert "enable_mup_with_base_n_embd is -, 64; give folders" in capsys.readouterr().err


def test_another_metric_and_other_keys(attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for width in (64, 128):
        for rate in (0.1, 0.2, 0.4):
            more = {"model.config.n_embd": width, "loss.beta": rate}
            attempt("adamw", 0.01, 2 + abs(rate - 0.2), more=more)
    assert main([str(outputs), "--by", "n_embd", "--axis", "beta", "--metric", "kl", "--goal", "maximize"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [
        ["n_embd", "beta", "train"], ["64", "0.2", "-2.0000"], ["128", "0.2", "-2.0000"],
    ]  # fmt: skip


def test_an_axis_of_integers(attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for layers in (1, 2, 4):
        attempt("adamw", 0.01, 2 + layers, more={"model.config.n_layer": layers})
        attempt("sgd", 0.01, 9 - layers, more={"model.config.n_layer": layers})
    assert main([str(outputs), "--axis", "n_layer"]) == 0
    printed = capsys.readouterr().out
    assert "adamw: the best n_layer, 1, is the lowest that was tried" in printed
    (member,) = sweep_in(printed)["union"]
    assert member == {"base": {}, "grid": {"model.config.n_layer": [8, 16], "seed": [0]}}


def test_the_figure(attempt: Try, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lr, end in ((0.001, 2.5), (0.003, 2.0), (0.01, 2.4)):
        attempt("adamw", lr, end)
    attempt("adamw", 0.003, 2.2, seed=1)
    attempt("sgd", 0.1, 3.0)
    blown = {"type": DIVERGED, "message": "loss is NaN at step 12", "traceback": ""}
    attempt("sgd", 1.0, math.nan, state=State.FAILED, error=blown)
    axes = draw(list(compare(outputs).values()), Asked(), TOKENS).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "eval loss at the end"
    adamw = axes.get_lines()[0]
    assert np.asarray(adamw.get_xdata()).tolist() == [0.001, 0.003, 0.01]
    assert np.asarray(adamw.get_ydata()).tolist() == pytest.approx([2.5, 2.1, 2.4])
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert [np.asarray(line.get_xdata()).tolist() for line in crosses] == [[1.0]]
    bars = [bar for bar in axes.containers if bar.get_label() is not None]
    assert len(bars) == 2
    assert axes.get_ylim()[0] < 2.1 < 3.0 < axes.get_ylim()[1]
    file = outputs.parent / "mine.png"
    assert main([str(outputs), "-o", str(file)]) == 0
    assert f"figure: {file}\ntable: {file.with_suffix('.csv')}" in capsys.readouterr().out
    assert imread(file).shape[2] == 4


def test_a_curve_that_begins_below_the_target_and_one_without_speeds() -> None:
    rows = pd.DataFrame({"step": [0, 10], "eval/loss": [2.0, 1.0]})
    assert reach(3.0, rows, 100, 10, "eval/loss", False).steps == 0
    assert reach(1.5, rows, 100, 10, "eval/loss", False).steps == 5
    assert math.isnan(reach(1.5, rows, 100, 10, "eval/loss", False).seconds)
    assert not reach(0.5, rows, 100, 10, "eval/loss", False).reached


def test_what_a_run_was_started_with(make_run: MakeRun) -> None:
    paths = make_run({"loss.beta": 0.25, "seed": 3, "model.config.n_embd": 64})
    paths.hydra.mkdir()
    texts = ["+exp=mine", "lora=none", "optimizer@other=adamw", "loss.beta=0.250", "++seed=3", "~lora.r", "rerun=true"]
    write_text(paths.hydra / "overrides.yaml", yaml.safe_dump([*texts, "optimizer.optimizer_params.betas=[0.9,0.999]"]))
    assert read_overrides(str(paths.root)) == {
        "+exp": "mine", "lora": "none", "optimizer@other": "adamw", "loss.beta": 0.25, "++seed": 3, "~lora.r": None,
        "optimizer.optimizer_params.betas": [0.9, 0.999],
    }  # fmt: skip


def test_the_comparison_of_optimizers_is_fair(tmp_path: Path) -> None:
    configs = planned(json.loads((ROOT / "params" / "optimizers_pretrain.json").read_text()), tmp_path)
    rates: dict[str, set[float]] = {}
    same = []
    for config in configs:
        optimizer, training = config["optimizer"]["optimizer_params"], config["training"]["training_params"]
        rates.setdefault(optimizer["name"], set()).add(optimizer["lr"])
        budget = {key: value for key, value in training.items() if key != "max_grad_norm"}  # MoMo takes no clipping
        schedule = (optimizer["lr_schedule"], optimizer["warm_up_fraction"])
        same.append((budget, schedule, *(config[group] for group in ("model", "data", "loss", "seed"))))
    assert all(item == same[0] for item in same)
    assert len(rates) >= 8
    assert {len(found) for found in rates.values()} == {4}


def test_a_submitted_sweep_by_its_name(
    attempt: Try, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [attempt("adamw", lr, end) for lr, end in ((0.001, 2.5), (0.003, 2.0))]
    attempt("adamw", 0.0001, 1.0)  # not of the sweep
    monkeypatch.chdir(outputs.parent)
    (sweeps := outputs.parent / "sweeps" / "mine").mkdir(parents=True)
    runs = [SweepRun(index, paths.root.name[-12:], str(paths.root), ()) for index, paths in enumerate(made)]
    runs.append(SweepRun(2, "f" * 12, str(outputs / "x-ffffffffffff"), (f"{LR}=0.01",)))
    needs = (Shape({"gpus_per_run": 0}, 1),)
    metric = {"name": "eval/loss", "goal": "minimize"}
    create(sweeps, "{}", runs, Submission("mine", "mine.json", (), "local", needs, metric, ".", "."))
    assert main(["mine"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs of 1,000 tokens" in printed
    assert f"  2 of mine/1: {LR}=0.01: not started" in printed
    assert (sweeps / "1" / "sensitivity.png").stat().st_size > 0
    document = sweep_in(printed)
    assert (document["name"], document["resources"]) == ("mine_extended", {"gpus_per_run": 0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "but nowhere is no folder, and no sweep in"),
        (["empty"], "runs are needed, but there are none below empty"),
        (["outputs", "--metric", "mine"], "none is known of mine; add --goal minimize"),
        (["outputs", "--metric", "eval/kl"], "of 2 there is none (2 no value of eval/kl)"),
        (
            ["outputs"],
            "at least two values of optimizer.optimizer_params.lr above 0 are needed, but all 2 comparable runs have",
        ),
        (["outputs", "--axis", "dataset.name"], "of 2 there is none (2 no data.dataset.name above 0)"),
        (["outputs", "--axis", "rate"], "but the runs have no rate; what varies between them is "),
        (["outputs", "--axis", "name"], "optimizer.optimizer_params.name have that name"),
        (["outputs", "--axis", "n_embd"], "loss, but data.dataset.name is pydoc, mine; give folders"),
        (["outputs", "--axis", "max_grad_norm", "-o", "no/a.png"], "give another -o FILE.png"),
    ],
)
def test_what_cannot_be_compared_exits_2(
    attempt: Try,
    outputs: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(outputs.parent)
    (outputs.parent / "empty").mkdir()
    for index, norm in enumerate((0.5, 1.0)):
        width = {"model.config.n_embd": 64 * (index + 1), "data.dataset.name": ("pydoc", "mine")[index]}
        norms = {"training.training_params.max_grad_norm": norm}
        attempt("adamw", 0.001, 2.0, more=width if "n_embd" in arguments else norms)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
