"""Runs of an app that is not gpt-opt's training: a config of its own form, metrics under its own names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis import load_metrics, load_runs
from analysis.answers import answer, find_metric, metric_columns, usual_metric
from analysis.plots import curves
from analysis.report import Source, page
from analysis.run_diff import compare_runs
from analysis.summarize import main
from analysis.tables import render_table, summary_table
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.metrics import greater_is_better, own_metrics, split_of
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, write_state

WIDTHS = {"src.mlp.MLP": {"width": 64}, "src.cnn.CNN": {"kernel": 3, "channels": 8}}


def _rows(worse: float, sep: str) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in range(1, 9):
        value = 1 / step + worse
        rows.append({"step": step, "time": 1.76e9 + step, f"train{sep}loss": value, "lr": worse / step, "epoch": 0.0})
        if step % 4 == 0:
            own = {f"val{sep}loss": value * 1.1, f"val{sep}acc": 1 - value / 3, f"test{sep}acc": 0.5}
            rows.append({"step": step, "time": 1.76e9 + step + 0.5, **own})
    return rows


def make_runs(folder: Path, sep: str) -> list[Path]:
    """Makes runs of two models, learning rates and seeds: the lower rate and the second model are better."""
    roots = []
    for place, (model, rate, seed) in enumerate((m, r, s) for m in WIDTHS for r in (0.1, 0.01) for s in (0, 1)):
        run_id = f"{place:012x}"
        paths = RunPaths(folder / "outputs" / "train" / f"run-{run_id}")
        paths.hydra.mkdir(parents=True)
        write_state(paths, RunState(run_id, State.COMPLETED, attempt=1, step=8))
        config = {"lr": rate, "seed": seed, "model": {"_target_": model, **WIDTHS[model]}, "models": [place % 2]}
        write_text(paths.config, to_json({**config, "batch_size": 8}))
        write_text(paths.hydra / "overrides.yaml", f"- lr={rate}\n- seed={seed}\n")
        rows = _rows(rate + seed / 100 + 0.05 * (model == "src.mlp.MLP") + 0.001 * place, sep)
        write_text(paths.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        last = {name: value for row in rows for name, value in row.items() if name not in ("step", "time")}
        write_text(paths.summary, to_json({"run_id": run_id, "attempt": 1, "step": 8, "metrics": last, "time_s": 60.0}))
        roots.append(paths.root)
    return roots


@pytest.fixture(params=["/", "_"])
def sep(request: pytest.FixtureRequest) -> str:
    """How the app joins the parts of its metrics' names."""
    return str(request.param)


@pytest.fixture
def roots(tmp_path: Path, sep: str, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return make_runs(tmp_path, sep)


def test_its_keys_and_its_metrics_are_those_of_the_frame(roots: list[Path], sep: str) -> None:
    runs = load_runs("outputs")
    assert runs.attrs["problems"] == []
    assert runs.attrs["varying"] == ["lr", "model._target_", "models", "seed"]  # `models` is no name of ours here
    assert sorted(runs["lr"].unique()) == [0.01, 0.1]
    assert runs["metrics/lr"].max() < 0.1  # what it logged under the name of its key
    assert set(metric_columns(runs)) >= {f"val{sep}loss", f"val{sep}acc", f"train{sep}loss", "metrics/lr", "epoch"}
    assert usual_metric(runs) == find_metric(runs, "val/acc") == f"val{sep}acc"
    assert load_metrics("outputs")[f"val{sep}acc"].notna().sum() == 16


def test_the_summary_as_json_has_keys_and_metrics_apart(roots: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outputs", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["runs"][0]
    assert record["config"]["lr"] == 0.1
    assert "lr" not in record["metrics"]
    assert record["metrics"]["metrics/lr"] < 0.1


def test_its_settings_are_compared_by_its_own_metric(roots: list[Path], sep: str) -> None:
    found = answer(load_runs("outputs").drop(columns="models"))
    assert (found.metric, found.greater) == (f"val{sep}acc", True)
    assert found.settings[0].values == {"lr": 0.01, "model._target_": "src.cnn.CNN"}
    assert [item.n for item in found.settings] == [2, 2, 2, 2]


def test_its_table_has_its_own_metrics(roots: list[Path], sep: str) -> None:
    text = render_table(summary_table(load_runs("outputs")))
    head = text.splitlines()[0].split()
    names = [f"val{sep}acc", f"val{sep}loss", f"test{sep}acc", f"train{sep}loss"]
    assert head == ["lr", "model", "models", "seed", "state", "steps", "seconds", *names]


def test_its_curves_have_panels_of_evaluations_with_training_behind(roots: list[Path], sep: str) -> None:
    figure = curves(load_runs("outputs"), load_metrics("outputs"))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"val{sep}acc", f"val{sep}loss (bold: eval, thin: train)", f"test{sep}acc"]


@pytest.mark.parametrize("way", ["script", "module", "command"])
def test_its_report_has_its_own_metrics_and_commands(roots: list[Path], sep: str, way: str, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("")
    texts = {
        "script": 'script = "src/train.py"\nregisters = true\n',
        "module": 'module = "src.train"\nregisters = true\n',
        "command": 'command = "python train.py --lr {lr}"\n',
    }
    (tmp_path / "gptopt.toml").write_text(f"[app]\n{texts[way]}")
    runs, metrics = load_runs("outputs"), load_metrics("outputs")
    text = page(Source("outputs", runs, metrics, tmp_path, answer(runs), None, None, [], [], True))
    data = text.partition('id="data">')[2].partition("</script>")[0]
    record: dict[str, Any] = json.loads(data)
    assert record["metric"] == f"val{sep}acc"
    assert {f"val{sep}acc", f"val{sep}loss", f"train{sep}loss"} <= set(record["metrics"]) & set(record["shown"])
    assert record["metrics"][f"val{sep}loss"]["better"] is False
    assert [key["name"] for key in record["keys"]] == ["lr", "model", "models", "seed"]
    assert len(record["runs"][0]["curves"]) >= 4
    expected = {"script": "python src/train.py lr=0.1 seed=0", "module": "python -m src.train lr=0.1 seed=0"}
    assert record["runs"][0].get("command") == expected.get(way)


def test_all_of_its_config_counts_in_a_comparison_of_two_runs(roots: list[Path]) -> None:
    found = compare_runs(RunPaths(roots[0]), RunPaths(roots[3]))
    assert set(found.parts["config"]) == {"lr", "seed", "models"}


@pytest.mark.parametrize(
    ("name", "better", "split"),
    [
        ("val/acc_best", True, "val"),
        ("valid_loss_epoch", False, "valid"),
        ("train_accuracy", True, "train"),
        ("eval/rouge/f1", True, "eval"),
        ("dev.error_rate", False, "dev"),
        ("grad_norm_total", None, ""),
        ("training/time", None, "training"),
        ("trainer/global_step", None, ""),
        ("eval/kl", False, "eval"),  # in the registry
    ],
)
def test_what_the_name_of_a_metric_says(name: str, better: bool | None, split: str) -> None:
    assert greater_is_better(name) is better
    assert split_of(name)[0] == split


def test_evaluations_come_first_among_metrics_of_ones_own() -> None:
    names = ["loss", "train/acc", "test/acc", "val/loss", "val/acc_best", "val/acc", "epoch", "score"]
    assert own_metrics(names) == ["val/acc", "val/acc_best", "val/loss", "test/acc", "score", "train/acc"]


def test_a_metric_called_as_a_key_is_there_beside_it(tmp_path: Path) -> None:
    for place, loss in enumerate(("l1", "mse", "l1", "mse")):
        run_id = f"{place:012x}"
        paths = RunPaths(tmp_path / f"run-{run_id}")
        paths.root.mkdir()
        write_state(paths, RunState(run_id, State.COMPLETED, attempt=1, step=8))
        write_text(paths.config, to_json({"loss": loss, "seed": place // 2}))
        rows = [{"step": step, "loss": 1 / step + place / 10, "step_time": 0.5} for step in (1, 2)]
        write_text(paths.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        write_text(paths.summary, to_json({"run_id": run_id, "step": 2, "metrics": rows[-1] | {"error": 0.25}}))
    runs, metrics = load_runs(tmp_path), load_metrics(tmp_path)
    assert runs.attrs["varying"] == ["loss", "seed"]
    assert runs["error"].isna().all()
    assert runs["metrics/error"].eq(0.25).all()
    found = answer(runs, "loss", target=0.55, metrics=metrics)
    assert (found.metric, found.greater, found.by) == ("metrics/loss", False, ("loss",))
    assert found.settings[0].values == {"loss": "l1"}
    assert [item.reached for item in found.reaches] == [1, 0]
    text = page(Source("runs", runs, metrics, tmp_path, answer(runs, "loss"), None, None, [], [], True))
    record = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert record["metric"] == "metrics/loss"
    assert record["runs"][0]["final"]["metrics/loss"] == 0.5
    assert "metrics/loss" in record["runs"][0]["curves"]
