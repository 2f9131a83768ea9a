"""python -m analysis.summarize: what it prints, saves and returns."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.summarize import main
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State

MakeRun = Callable[..., RunPaths]


def test_the_table_is_printed_and_saved(make_run: MakeRun, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_run()
    assert main([str(outputs)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split() == [
        "0.1", "COMPLETED", "200/200", "0.4523", "0.5012", "78.1%", "0.9876", "1.2500", "61.2",
    ]  # fmt: skip
    assert printed.out.splitlines()[-1] == f"table: {outputs / 'summary.csv'}"
    assert printed.err == ""
    saved = pd.read_csv(outputs / "summary.csv", dtype={"run_id": str})
    assert saved["eval accuracy"].tolist() == [0.781]
    assert saved["path"].tolist() == [str(paths.root)]


def test_csv_elsewhere(make_run: MakeRun, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    assert main([str(outputs), "--csv", str(tmp_path / "mine.csv")]) == 0
    assert f"table: {tmp_path / 'mine.csv'}" in capsys.readouterr().out
    assert (tmp_path / "mine.csv").exists()
    assert not (outputs / "summary.csv").exists()


def test_json_is_one_strict_document(make_run: MakeRun, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_run(final={"loss": math.nan, "eval/loss": 0.5, "kl": math.inf})
    make_run().config.write_text("torn")
    assert main([str(outputs), "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    first, second = document["runs"]
    assert (first["run_id"], first["state"], first["step"]) == ("0" * 12, "COMPLETED", 200)
    assert first["path"] == str(paths.root)
    assert first["started"] == "2025-11-20T23:50:00.123000+00:00"
    assert first["metrics"]["loss"] is None
    assert first["metrics"]["kl"] is None
    assert first["metrics"]["eval/loss"] == 0.5
    assert first["config"]["loss.beta"] == 0.1
    assert first["config"]["seed"] == 0
    assert "paths.output_dir" not in first["config"]
    assert second["config"]["loss.beta"] is None
    assert len(document["problems"]) == 2
    assert printed.err == ""
    assert not (outputs / "summary.csv").exists()


def test_problems_and_errors_stand_below_the_table(
    make_run: MakeRun, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"type": "RuntimeError", "message": "CUDA out of memory", "traceback": ""}
    failed = make_run({"loss.beta": 0.3}, state=State.FAILED, final=None, error=error)
    torn = make_run()
    torn.summary.write_text("{")
    assert main([str(outputs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("runs with errors: 1") + 1] == f"  {failed.root}: RuntimeError: CUDA out of memory"
    assert lines[lines.index("problems: 1") + 1].startswith(f"  {torn.summary}: must be a summary written by gpt-opt")


def test_problems_are_not_said_twice(make_run: MakeRun, outputs: Path) -> None:
    make_run().summary.write_text("{")
    command = [sys.executable, "-m", "analysis.summarize", str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("must be a summary written by gpt-opt") == 1


def test_a_path_that_does_not_exist_exits_2(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(outputs / "nowhere")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert str(outputs / "nowhere") in printed.err


def test_a_table_that_cannot_be_saved_is_still_printed(
    make_run: MakeRun, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run()
    assert main([str(outputs), "--csv", str(outputs / "no" / "folder.csv")]) == 2
    printed = capsys.readouterr()
    assert "78.1%" in printed.out
    assert "give another --csv FILE" in printed.err


def test_an_empty_folder_says_so(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(outputs)]) == 0
    assert capsys.readouterr().out.startswith(f"no runs below {outputs}\n")
    assert (outputs / "summary.csv").read_text().startswith("state,steps,train loss,")
