"""load_runs and load_metrics on files that are broken, foreign or half written: reported, never fatal."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import load_metrics, load_runs
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, write_state
from tests.helpers.examples import examples

MakeRun = Callable[..., RunPaths]

NOT_AN_OBJECT = {
    "empty": b"",
    "torn": b'{"run_id": "0000',
    "list": b"[1, 2]",
    "number": b"7",
    "text": b"hello",
    "not_utf8": b'{"run_id": "\xff\xfe"}',
    "nul": b"\x00" * 64,
    "deep": b"[" * 100_000,
    "long_number": b'{"run_id": ' + b"9" * 5000 + b"}",
}
broken = pytest.mark.parametrize("content", NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT.keys())


def only_problem(frame: pd.DataFrame, file: Path) -> str:
    """Returns the text of the one problem, which must be about `file` and one line long."""
    (problem,) = frame.attrs["problems"]
    assert problem.startswith(f"{file}: ")
    assert "\n" not in problem
    return str(problem)


@broken
def test_broken_state(make_run: MakeRun, outputs: Path, content: bytes) -> None:
    paths = make_run({"loss.beta": 0.3})
    make_run()
    paths.state.write_bytes(content)
    runs = load_runs(outputs)
    only_problem(runs, paths.state)
    assert runs["run_id"].tolist() == ["000000000000", "000000000001"]
    assert runs["state"].tolist() == ["INTERRUPTED", "COMPLETED"]
    assert runs["loss.beta"].tolist() == [0.3, 0.1]
    assert runs["loss"].tolist() == [0.4523, 0.4523]


@broken
def test_broken_config(make_run: MakeRun, outputs: Path, content: bytes) -> None:
    paths = make_run()
    make_run({"loss.beta": 0.3})
    paths.config.write_bytes(content)
    runs = load_runs(outputs)
    only_problem(runs, paths.config)
    assert runs["loss.beta"].isna().tolist() == [True, False]
    assert runs["state"].tolist() == ["COMPLETED", "COMPLETED"]


@broken
def test_broken_summary(make_run: MakeRun, outputs: Path, content: bytes) -> None:
    paths = make_run(rows=[{"step": 200, "loss": 0.25}])
    paths.summary.write_bytes(content)
    runs = load_runs(outputs)
    only_problem(runs, paths.summary)
    assert runs["loss"].tolist() == [0.25]
    assert runs["time_s"].isna().all()


def test_foreign_state(make_run: MakeRun, outputs: Path) -> None:
    first, second = make_run(), make_run()
    first.state.write_text('{"run_id": "x", "state": "SLEEPING"}')
    second.state.write_text('{"state": "COMPLETED"}')
    runs = load_runs(outputs)
    assert [problem.partition(": ")[0] for problem in runs.attrs["problems"]] == [str(first.state), str(second.state)]


def test_wrong_kinds_of_values_are_missing_and_named(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run(final={"loss": "low", "kl": [1], "eval/loss": True, "eval/kl": 0.5})
    write_state(paths, RunState("a" * 12, State.COMPLETED, total_steps=2**64, updated=5))  # type: ignore[arg-type]
    runs = load_runs(outputs)
    problems = " ".join(runs.attrs["problems"])
    for named in (f"total_steps={2**64}", "updated=5", "loss='low'", "kl=[1]", "eval/loss=True"):
        assert named in problems
    assert runs[["total_steps", "updated", "loss", "kl", "eval/loss"]].isna().all(axis=None)
    assert runs["eval/kl"].tolist() == [0.5]


def test_summary_whose_metrics_are_no_object(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run(final=None)
    paths.summary.write_text('{"metrics": [1], "time_s": 3}')
    runs = load_runs(outputs)
    assert "metrics must be an object" in only_problem(runs, paths.summary)
    assert runs["time_s"].tolist() == [3.0]


def test_missing_files(make_run: MakeRun, outputs: Path) -> None:
    stateless, configless, summaryless = make_run(), make_run(), make_run()
    stateless.state.unlink()
    configless.config.unlink()
    summaryless.summary.unlink()
    runs = load_runs(outputs)
    files = [problem.partition(": ")[0] for problem in runs.attrs["problems"]]
    assert files == [str(stateless.state), str(configless.config), str(summaryless.summary)]
    assert runs["state"].tolist() == ["PENDING", "COMPLETED", "INTERRUPTED"]
    assert runs["run_id"].tolist() == [f"{count:012x}" for count in range(3)]


def test_a_run_that_has_just_been_claimed_is_no_problem(outputs: Path) -> None:
    root = outputs / "run-0123456789ab"
    (root / "claims").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    runs = load_runs(outputs)
    assert runs["state"].tolist() == ["PENDING"]
    assert runs["run_id"].tolist() == ["0123456789ab"]
    assert runs.attrs["problems"] == []
    assert load_metrics(outputs).empty


def test_a_folder_in_place_of_a_file(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run(final=None, state=State.INTERRUPTED)
    paths.summary.mkdir()
    paths.metrics.unlink()
    paths.metrics.mkdir()
    assert len(load_runs(outputs).attrs["problems"]) == 2
    only_problem(load_metrics(outputs), paths.metrics)


@pytest.mark.parametrize("tail", [b'{"step": 30, "lo', b'{"step": 30, "name": "\xc3', b"{", b"\x00\x00"])
def test_a_torn_last_line_is_left_out_quietly(
    make_run: MakeRun, outputs: Path, caplog: pytest.LogCaptureFixture, tail: bytes
) -> None:
    paths = make_run()
    with paths.metrics.open("ab") as stream:
        stream.write(tail)
    with caplog.at_level(logging.INFO, logger="analysis"):
        metrics = load_metrics(outputs)
    assert metrics["step"].tolist() == [10, 20]
    assert metrics.attrs["problems"] == []
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert str(paths.metrics) in record.getMessage()


def test_a_whole_last_line_without_its_newline_counts(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run()
    with paths.metrics.open("a") as stream:
        stream.write('{"step": 30, "loss": 0.1}')
    assert load_metrics(outputs)["step"].tolist() == [10, 20, 30]


BAD_LINES = [
    b"garbage",
    b"[1]",
    b"null",
    b'{"loss": 1.0}',
    b'{"step": "15", "loss": 1.0}',
    b'{"step": 1.5, "loss": 1.0}',
    b'{"step": true, "loss": 1.0}',
    b'{"step": -1, "loss": 1.0}',
    b'{"step": 99999999999999999999, "loss": 1.0}',
    b'{"step": 15, "loss": "low"}',
    b'{"step": 15, "loss": {"mean": 1.0}}',
    b'{"step": 15, "loss": true}',
    b'\xff{"step": 15, "loss": 1.0}',
    b"\x00\x00\x00",
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_in_the_middle_is_left_out_and_reported(make_run: MakeRun, outputs: Path, line: bytes) -> None:
    paths = make_run()
    good = paths.metrics.read_bytes().splitlines(keepends=True)
    paths.metrics.write_bytes(b"".join([*good[:2], line, b"\n", *good[2:]]))
    metrics = load_metrics(outputs)
    assert metrics["step"].tolist() == [10, 20]
    problem = only_problem(metrics, paths.metrics)
    assert "1 of its lines" in problem
    assert "line 3: " in problem
    assert len(problem) < len(str(paths.metrics)) + 300


def test_a_bad_last_line_that_is_complete_is_reported(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run()
    with paths.metrics.open("a") as stream:
        stream.write("garbage\n")
    metrics = load_metrics(outputs)
    assert metrics["step"].tolist() == [10, 20]
    assert "line 5: " in only_problem(metrics, paths.metrics)


def test_many_bad_lines_are_one_problem_and_one_warning(
    make_run: MakeRun, outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = make_run()
    paths.metrics.write_bytes(b"\n".join(BAD_LINES) + b"\n\n")
    with caplog.at_level(logging.WARNING, logger="analysis"):  # commands silence it
        metrics = load_metrics(outputs)
    assert metrics.empty
    assert f"{len(BAD_LINES)} of its lines" in only_problem(metrics, paths.metrics)
    assert [record.getMessage() for record in caplog.records] == metrics.attrs["problems"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@settings(max_examples=examples(60))
@given(st.tuples(*[st.binary(max_size=40)] * 4))
def test_whatever_the_files_hold_reading_goes_on(contents: tuple[bytes, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = RunPaths(Path(folder) / "run-0123456789ab")
        paths.root.mkdir()
        for file, content in zip((paths.state, paths.config, paths.summary, paths.metrics), contents, strict=True):
            file.write_bytes(content)
        assert len(load_runs(folder)) == 1
        load_metrics(folder)
