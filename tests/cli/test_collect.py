"""gptopt collect: one table of all runs, as Parquet or CSV."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import load_metrics, load_runs
from gpt_opt.cli import main
from gpt_opt.records.io import write_text
from gpt_opt.records.planned_configs import ConfigChanges, text_of
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Shape, Submission, Sweep, SweepRun, create
from tests.analysis.conftest import make_run, outputs

__all__ = ["make_run", "outputs"]

MakeRun = Callable[..., RunPaths]


def test_parquet_holds_what_load_runs_returns(
    make_run: MakeRun, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run({"loss.beta": 0.1, "model.mixed": "auto", "seed": 2**70, "own.lists": [1, 2]})
    make_run({"loss.beta": 1, "model.mixed": [4], "own.lists": [3]})
    make_run(state=State.FAILED, final=None, rows=[]).config.unlink()
    target = outputs / "results.parquet"
    assert main(["collect", str(outputs), "-o", str(target)]) == 0
    output = capsys.readouterr()
    assert output.out == f"{target}: 3 rows, {len(load_runs(outputs).columns)} columns\n"
    assert output.err.count("problem: ") == 1
    found, expected = pd.read_parquet(target), load_runs(outputs)
    assert [list(value) for value in found["own.lists"].dropna()] == [[1, 2], [3]]
    assert found["model.mixed"].dropna().tolist() == ["auto", "[4]"]
    assert found["seed"].dropna().tolist() == [str(2**70), "0"]
    same = [name for name in expected.columns if expected[name].dtype != object]
    pd.testing.assert_frame_equal(found[same], expected[same])
    assert found.attrs == expected.attrs


def test_csv_has_lists_as_json_and_metrics_are_the_curves(make_run: MakeRun, outputs: Path) -> None:
    make_run()
    assert main(["collect", str(outputs), "-o", str(outputs / "results.csv")]) == 0
    (row,) = pd.read_csv(outputs / "results.csv").to_dict("records")
    assert main(["collect", str(outputs), "-o", str(outputs / "results.CSV")]) == 0
    assert (outputs / "results.CSV").read_bytes() == (outputs / "results.csv").read_bytes()
    assert json.loads(row["optimizer.optimizer_params.betas"]) == [0.9, 0.999]
    assert row["loss"] == 0.4523
    assert main(["collect", str(outputs), "-o", str(outputs / "curves.parquet"), "--metrics"]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(outputs / "curves.parquet"), load_metrics(outputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "results.xlsx"], "must end in .parquet or .csv, but is results.xlsx write -o results.parquet"),
        (["-o", ""], "must end in .parquet or .csv, but is . write -o results.parquet"),
        (["-o", "/"], "must end in .parquet or .csv, but is / write -o results.parquet"),
        (["-o", "nowhere/results.csv"], "must be in a folder that exists, but nowhere does not"),
        ([], "Missing option '-o'"),
    ],
)
def test_a_wrong_request_is_one_clear_error(
    outputs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["collect", str(outputs), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("more", [[], ["--metrics"]])
def test_a_folder_without_runs_makes_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert main(["collect", str(tmp_path), "-o", str(tmp_path / "e.csv"), *more]) == 2
    assert f"no run lies below {str(tmp_path)!r}" in capsys.readouterr().err
    assert not (tmp_path / "e.csv").exists()


@pytest.fixture
def sweep(make_run: MakeRun, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of three runs, of which the second has begun."""
    monkeypatch.chdir(outputs.parent)
    begun = make_run({"loss.beta": 0.2})
    config = json.loads(begun.config.read_text())
    changes, ids = ConfigChanges(), ("a" * 12, "0" * 12, "b" * 12)
    lines = []
    for number, run_id in enumerate(ids):
        own = {**config, "loss": {**config["loss"], "beta": (number + 1) / 10}}
        lines.append((run_id, changes.add(own)))
    runs = [
        SweepRun(number, run_id, str(begun.root.parent / f"beta={number}-{run_id}"), (f"loss.beta={number}",))
        for number, run_id in enumerate(ids)
    ]
    folder = Path("sweeps/betas").resolve()
    folder.mkdir(parents=True)
    submission = Submission("betas", "betas.json", (), "local", (Shape({}, 1),), None, os.getcwd(), os.getcwd())
    return create(folder, "{}", runs, submission, lambda new: write_text(new.planned_configs, text_of(lines)))


def test_of_a_sweep_every_planned_run_has_a_row(sweep: Sweep, outputs: Path) -> None:
    assert main(["collect", "betas", "-o", "results.parquet"]) == 0
    runs = pd.read_parquet("results.parquet")
    assert runs.columns[:5].tolist() == ["run_id", "state", "index", "stage", "loss.beta"]
    assert runs["state"].tolist() == ["PENDING", "COMPLETED", "PENDING"]
    assert runs["index"].tolist() == ["0", "1", "2"]
    assert runs["loss.beta"].tolist() == [0.1, 0.2, 0.3]
    assert runs["reason"].fillna("").tolist() == ["is not started", "", "is not started"]
    assert runs.attrs["varying"] == ["loss.beta"]
    assert runs.attrs["sweep"] == "betas/1"
    assert runs.attrs["constant"]["paths.output_dir"] == "outputs"  # what a plan does not say does not vary
    assert load_metrics(sweep="betas")["run_id"].unique().tolist() == ["0" * 12]


def test_of_a_sweep_without_planned_configs_the_rows_say_so(sweep: Sweep) -> None:
    sweep.planned_configs.write_text("torn")
    runs = load_runs(sweep=sweep.root)
    assert runs["reason"].tolist()[0] == "is not started, and its planned config cannot be read"
    assert runs["loss.beta"].isna().tolist() == [True, False, True]
    assert runs.attrs["varying"] == []
