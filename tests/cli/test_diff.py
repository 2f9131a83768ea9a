"""`gptopt diff`: what differs between two runs, what is equal, and how runs are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.run_diff import compare_runs
from gpt_opt.cli.app import main
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.sweep_dir import Shape, Submission, SweepRun, create
from tests.analysis.conftest import MakeRun

PACKAGES = {"torch": "2.8.0", "numpy": "2.3.0", "pandas": "3.0.0"}


def provenance(paths: RunPaths, **changed: Any) -> None:
    """Writes what a run was made with, and the fingerprint of its data."""
    record = {
        "time": "2025-11-20T23:50:00+00:00",
        "git_commit": "a" * 40,
        "git_dirty": False,
        "code": {"sha256": "c" * 64, "snapshot": None},
        "inputs": {"model.archive": {"path": "weights", "sha256": "d" * 64}},
        "host": "node1",
        "python": "3.11.7",
        "packages": PACKAGES,
    }
    write_text(paths.provenance, to_json(record | changed))
    summary = json.loads(paths.summary.read_text())
    write_text(paths.summary, to_json(summary | {"data_fingerprint": "e" * 64}))


@pytest.fixture
def two(make_run: MakeRun, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunPaths]:
    """Two runs that differ in everything, in the sweep mine/1, in outputs/ of the current directory."""
    monkeypatch.chdir(outputs.parent)
    monkeypatch.setenv("COLUMNS", "200")
    first = make_run(
        {"loss.beta": 0.1, "gpu": {"use_ddp": False}}, final={"eval/loss": 0.5, "eval/rewards/accuracies": 0.75}
    )
    second = make_run(
        {"loss.beta": 0.3, "lora": {"r": 8}, "gpu": {"use_ddp": True}},
        final={"eval/loss": 0.4, "eval/rewards/accuracies": 0.8, "eval/kl": 1.0},
        time_s=10.0,
    )
    provenance(first)
    other = {
        "inputs": {"model.archive": {"path": "weights", "sha256": "f" * 64}},
        "packages": PACKAGES | {"torch": "2.9.0"},
    }
    provenance(second, git_commit="b" * 40, code={"sha256": "9" * 64, "snapshot": None}, host="node2", **other)
    write_text(second.git_diff, "+one\n+two\n")
    runs = [SweepRun(index, paths.root.name[-12:], str(paths.root), ()) for index, paths in enumerate((first, second))]
    submission = Submission("mine", "mine.json", (), "local", (Shape({}, 1),), None, str(outputs.parent), ".")
    (folder := outputs.parent / "sweeps" / "mine").mkdir(parents=True)
    create(folder, "{}", runs, submission)
    return [first, second]


def test_only_what_differs_and_one_line_of_what_is_equal(
    two: list[RunPaths], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", "mine", "0", "1"]) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:2] == [f"first: {two[0].root}", f"second: {two[1].root}"]
    for line in (
        "loss.beta 0.1 0.3",
        "lora.r - 8",
        "gpu.use_ddp false true",
        "commit aaaaaaaaaaaa bbbbbbbbbbbb",
        "content cccccccccccc 999999999999",
        "uncommitted changes - 2 lines",
        "model.archive dddddddddddd ffffffffffff",
        "torch 2.8.0 2.9.0",
        "host node1 node2",
        "eval/loss 0.5000 0.4000 -0.1000",
        "eval/rewards/accuracies 75.0% 80.0% +5.0%",
        "eval/kl - 1.0000 -",
        "time_s 61.25 10",
    ):
        assert line in lines, line
    assert lines[-3] == "equal: state (COMPLETED)"
    assert lines[-2] == f"the code in full: git diff {'a' * 12} {'b' * 12} -- gpt_opt"
    assert lines[-1] == f"the code in full: diff /dev/null {two[1].git_diff}"
    assert "numpy" not in out
    assert "seed" not in out


@pytest.mark.parametrize("name", [("mine", "0", "0"), ("mine", "0", "mine/1", "0"), ("000000000000", "mine", "0")])
def test_equal_runs(two: list[RunPaths], capsys: pytest.CaptureFixture[str], name: tuple[str, ...]) -> None:
    assert main(["diff", *name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "nothing differs"
    assert lines[4].startswith(
        "equal: config, config that changes no result, code (cccccccccccc), data (eeeeeeeeeeee), 3 p"
    )


def test_for_programs(two: list[RunPaths], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(two[0].root), "000000000001", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["second"] == str(two[1].root.relative_to(Path.cwd()))
    assert document["differs"]["config"]["loss.beta"] == {"first": 0.1, "second": 0.3}
    assert document["differs"]["metrics"]["eval/kl"] == {"first": None, "second": 1.0}
    assert document["differs"]["packages"] == {"torch": {"first": "2.8.0", "second": "2.9.0"}}
    assert document["equal"] == ["state"]


def test_types_differ_too_and_values_that_are_not_numbers_do_not(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run({"loss.beta": beta}, final={"loss": float("nan")}) for beta in (1, 1.0)]
    assert main(["diff", *(str(paths.root) for paths in runs), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["differs"] == {"config": {"loss.beta": {"first": 1, "second": 1.0}}}


def test_broken_records_are_said(two: list[RunPaths], capsys: pytest.CaptureFixture[str]) -> None:
    write_text(two[1].summary, "{")
    write_text(two[1].provenance, "[]")
    assert main(["diff", "mine", "0", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("problem: ") == 2
    assert "eval/loss" in out


@pytest.mark.parametrize("odd", [[1], 7, {"a": 7}, {"a": {"sha256": 7}}, {"sha256": "a", "snapshot": 7}])
def test_records_of_another_form_are_compared(
    two: list[RunPaths], capsys: pytest.CaptureFixture[str], odd: object
) -> None:
    provenance(two[1], **dict.fromkeys(("git_commit", "code", "inputs", "packages", "slurm", "host"), odd))
    assert main(["diff", "mine", "0", "1"]) == 0
    out = capsys.readouterr().out
    assert str(odd)[:12] in next(line for line in out.splitlines() if line.startswith("commit"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine", "0"], "must be two runs, but got 1"),
        (["mine", "0", "1", "0"], "must be two runs, but got 3"),
        (["mine", "0", "7"], "must be the id of a run of sweep mine/1, or its index, 0 to 1, but is '7'"),
        (["mine"], "must be followed by the index of a run, but sweep mine is not"),
        (["elsewhere", "0"], "must be the directory of a run, the id of one below outputs/, or SWEEP INDEX"),
        (["ffffffffffff", "mine", "0"], "but is 'ffffffffffff'"),
        ([], "Missing argument"),
    ],
)
def test_wrong_names_exit_2(
    two: list[RunPaths], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["diff", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_has_not_begun(two: list[RunPaths], capsys: pytest.CaptureFixture[str]) -> None:
    two[1].config.unlink()
    assert main(["diff", "mine", "0", "1"]) == 2
    assert "must be a run that has begun, but there is no " in capsys.readouterr().err


def test_counts_of_earlier_versions_are_those_of_now(two: list[RunPaths]) -> None:
    earlier, now = ("prompts_cut", "answers_cut"), ("prompts_truncated", "completions_truncated")
    for paths, names in zip(two, (earlier, now), strict=True):
        summary = json.loads(paths.summary.read_text())
        write_text(paths.summary, to_json(summary | {"data": {"train": dict.fromkeys(names, 3)}}))
    assert not [key for key in compare_runs(*two).parts["data"] if key.startswith("train.")]
