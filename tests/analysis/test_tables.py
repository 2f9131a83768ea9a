"""The table of a sweep as a DataFrame and as text."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import load_runs
from analysis.tables import render_table, summary_table
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State

MakeRun = Callable[..., RunPaths]

METRICS = ["train loss", "eval loss", "eval accuracy", "eval margin", "eval KL", "seconds"]
END = ["state", "steps", *METRICS, "run_id", "path"]


def test_the_table_is_sorted_by_what_varies(make_run: MakeRun, outputs: Path) -> None:
    for beta in (0.3, 0.05, 0.1):
        make_run({"loss.beta": beta})
    table = summary_table(load_runs(outputs))
    assert list(table.columns) == ["beta", *END]
    assert table["beta"].tolist() == [0.05, 0.1, 0.3]
    assert table.index.tolist() == [0, 1, 2]
    assert table["run_id"].tolist() == ["000000000001", "000000000002", "000000000000"]
    assert table.iloc[0][["state", "steps", *METRICS]].tolist() == [
        "COMPLETED", "200/200", 0.4523, 0.5012, 0.781, 0.9876, 1.25, 61.25,
    ]  # fmt: skip
    assert table.attrs["parameters"] == {"beta": "loss.beta"}


def test_one_run_shows_the_main_parameter(make_run: MakeRun, outputs: Path) -> None:
    make_run()
    assert list(summary_table(load_runs(outputs)).columns) == ["beta", *END]


def test_a_parameter_that_is_a_list(make_run: MakeRun, outputs: Path) -> None:
    for betas in ([0.9, 0.95], [0.9, 0.99], None):
        make_run({"optimizer.optimizer_params.betas": betas})
    lines = render_table(summary_table(load_runs(outputs))).splitlines()
    assert [line.partition("  ")[0].strip() for line in lines] == ["betas", "[0.9, 0.95]", "[0.9, 0.99]", "-"]


def test_some_rows_of_a_frame_make_a_table(make_run: MakeRun, outputs: Path) -> None:
    for beta in (0.3, 0.05, 0.1):
        make_run({"loss.beta": beta})
    runs = load_runs(outputs)
    table = summary_table(runs[runs["loss.beta"] > 0.07])
    assert table["beta"].tolist() == [0.1, 0.3]
    assert table["steps"].tolist() == ["200/200", "200/200"]


def test_steps_that_are_not_known_are_question_marks(make_run: MakeRun, outputs: Path) -> None:
    make_run(state=State.FAILED, final=None, rows=[], step=0, total_steps=None)
    assert summary_table(load_runs(outputs))["steps"].tolist() == ["0/?"]


def test_the_text(make_run: MakeRun, outputs: Path) -> None:
    make_run({"loss.beta": 0.05, "optimizer.optimizer_params.name": "rmsprop"})
    make_run({"loss.beta": 0.1}, state=State.INTERRUPTED, final=None, rows=[{"step": 7, "loss": 12345.678}], step=7)
    final = {"loss": 0.5, "eval/loss": math.inf, "eval/rewards/accuracies": 1.0}
    make_run({"loss.beta": 0.3}, final=final, time_s=123.456)
    assert render_table(summary_table(load_runs(outputs))).splitlines() == [
        "beta  optimizer  state          steps  train loss  eval loss  eval accuracy  eval margin  eval KL  seconds",
        "0.05  rmsprop    COMPLETED    200/200      0.4523     0.5012          78.1%       0.9876   1.2500     61.2",
        " 0.1  adamw      INTERRUPTED    7/200   1.235e+04          -              -            -        -        -",
        " 0.3  adamw      COMPLETED    200/200      0.5000        inf         100.0%            -        -    123.5",
    ]


def test_metrics_that_no_run_has_are_left_out_of_the_text(make_run: MakeRun, outputs: Path) -> None:
    make_run({"loss": {"name": "sft"}}, final={"loss": 1.5, "eval/loss": 1.6})
    assert render_table(summary_table(load_runs(outputs))).splitlines() == [
        "state        steps  train loss  eval loss  seconds",
        "COMPLETED  200/200      1.5000     1.6000     61.2",
    ]


@pytest.mark.parametrize("width", [80, 100])
def test_long_texts_are_folded_and_what_they_begin_with_stands_below(
    make_run: MakeRun, outputs: Path, width: int
) -> None:
    for count in range(2):
        make_run({"data.dataset.path": f"/very/long/folder/name/for/preference/pairs/{count}.jsonl"})
    lines = render_table(summary_table(load_runs(outputs)), width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines if line.startswith("…")] == ["…0.jsonl", "…1.jsonl"]
    assert lines[-1] == "dataset.path: … is /very/long/folder/name/for/preference/pairs/"


def test_parameters_that_do_not_fit_go_over_several_lines(make_run: MakeRun, outputs: Path) -> None:
    names = [f"training.training_params.parameter_number_{count}" for count in range(9)]
    for value in (1, 2):
        make_run({name: value + index for index, name in enumerate(names)})
    lines = render_table(summary_table(load_runs(outputs)), 100).splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(lines[:3]).split()[:9] == [name.rpartition(".")[2] for name in names]
    assert " ".join(lines[3:6]).split()[:9] == [str(1 + index) for index in range(9)]
    assert len(lines) == 9


def test_numbers_are_never_cut(make_run: MakeRun, outputs: Path) -> None:
    for seed in (123456789012345, 543210987654321):
        make_run({"training.training_params.seed_of_the_data_order_and_dropout": seed})
    lines = render_table(summary_table(load_runs(outputs)), 105).splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["123456789012345", "543210987654321"]
    assert "".join(line[:17].strip() for line in lines[:-2]) == "seed_of_the_data_order_and_dropout"


def test_a_table_without_runs(outputs: Path) -> None:
    table = summary_table(load_runs(outputs))
    assert list(table.columns) == END
    assert table.empty
    assert render_table(table) == "state  steps"
