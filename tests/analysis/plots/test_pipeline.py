"""The tree of a pipeline, and the command that saves all figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread
from matplotlib.patches import FancyBboxPatch

from analysis.plots import NothingToPlot, pipeline
from analysis.plots.__main__ import main
from gpt_opt.records.choices import record_choice
from gpt_opt.records.sweep_dir import Shape, StageRecord, Submission, Sweep, SweepRun, create
from tests.analysis.plots.frames import ACCURACY, run_frame
from tests.analysis.plots.texts import assert_readable, notes


def submit(parent: Path, runs: list[SweepRun], metric: str = ACCURACY) -> Sweep:
    """Returns a submitted sweep of pretrain, sft and dpo, of which the last starts from the best sft by its loss."""
    parent.mkdir(parents=True, exist_ok=True)
    by_loss = {"name": "eval/loss", "goal": "minimize"}
    stages = (StageRecord("pretrain"), StageRecord("sft", "pretrain"), StageRecord("dpo", "best of sft", by_loss))
    goal = {"name": metric, "goal": "maximize"}
    submission = Submission("mine", "mine.json", (), "local", (Shape({}, 1),), goal, ".", ".", stages=stages)
    return create(parent, "{}", runs, submission)


def planned(folder: Path) -> list[SweepRun]:
    """Returns one pretraining, two SFT runs, and for each of these two DPO runs, of which one pair will be made."""
    rows: list[tuple[str, int, int | None, str, str]] = [
        ("pretrain", 0, None, "", "model=gpt-tiny"),
        ("sft", 0, 0, "", "optimizer.optimizer_params.lr=0.0003"),
        ("sft", 1, 0, "", "optimizer.optimizer_params.lr=0.001"),
        *(
            ("dpo", number, parent, "dpo", f"loss.beta={beta}")
            for parent in (1, 2)
            for number, beta in ((0, 0.1), (1, 0.3))
        ),
    ]
    return [
        SweepRun(
            index,
            f"{index:012x}",
            str(folder / f"x-{index:012x}"),
            ("loss=any", own, *([f"model.archive=run:{parent:012x}"] if parent is not None else [])),
            stage=stage,
            number=number,
            parent=parent,
            choice=choice,
        )
        for index, (stage, number, parent, choice, own) in enumerate(rows)
    ]


def done(**more: Any) -> list[dict[str, Any]]:
    losses = [2.2, 2.1, 1.9]
    rows: list[dict[str, Any]] = [{"run_id": f"{index:012x}", "eval/loss": loss} for index, loss in enumerate(losses)]
    rows += [{"run_id": f"{index:012x}", "eval/loss": 0.5, ACCURACY: 0.9} for index in (5, 6)]
    rows[-1] |= more
    return rows


def boxes(axes: Axes) -> list[list[str]]:
    """Returns the lines of every box, from left to right and from top to bottom."""
    frames = sorted((p for p in axes.patches if isinstance(p, FancyBboxPatch)), key=lambda p: (p.get_x(), -p.get_y()))
    found = []
    for frame in frames:
        inside = [t for t in axes.texts if frame.get_x() < t.get_position()[0] < frame.get_x() + frame.get_width()
                  and frame.get_y() < t.get_position()[1] < frame.get_y() + frame.get_height()]  # fmt: skip
        found.append([text.get_text() for text in sorted(inside, key=lambda text: -text.get_position()[1])])
    return found


def test_a_tree_shows_what_runs_start_from_and_which_one_was_chosen(tmp_path: Path) -> None:
    sweep = submit(tmp_path / "sweeps" / "mine", planned(tmp_path))
    record_choice(sweep.choices, "dpo", 2, "eval/loss", 1.9)
    (axes,) = (figure := pipeline(sweep, run_frame(done()))).axes
    assert boxes(axes) == [
        ["pretrain/0", "eval loss 2.2000"],
        ["sft/0", "lr=0.0003", "eval loss 2.1000"],
        ["sft/1", "lr=0.001", "eval loss 1.9000"],
        ["dpo/0", "beta=0.1", "eval accuracy 90.0%"],
        ["dpo/1", "beta=0.3", "eval accuracy 90.0%"],
    ]
    widths = [patch.get_linewidth() for patch in axes.patches]
    assert [width > 2 for width in widths] == [False, False, True, False, False]
    assert len(axes.get_lines()) == 4
    assert {line.get_linestyle() for line in axes.get_lines()} == {"-"}
    assert notes(figure) == ["thick frame: chosen for the next stage"]
    assert_readable(figure)


def test_before_the_choice_all_candidates_are_joined_by_dots(tmp_path: Path) -> None:
    sweep = submit(tmp_path / "sweeps" / "mine", planned(tmp_path))
    runs = run_frame([{"run_id": f"{0:012x}", "state": "RUNNING", "step": 5, "loss": 3.0}])
    (axes,) = (figure := pipeline(sweep, runs)).axes
    assert boxes(axes)[0] == ["pretrain/0", "RUNNING 5/100"]
    assert boxes(axes)[-1] == ["dpo/1", "beta=0.3", "PENDING"]
    assert [line.get_linestyle() for line in axes.get_lines()].count(":") == 4
    assert notes(figure) == ["dotted: not chosen yet"]
    assert_readable(figure)


def test_very_many_runs_are_a_box_a_stage(tmp_path: Path) -> None:
    runs = planned(tmp_path)[:1]
    for index in range(1, 100):
        start = ("loss=sft", f"seed={index}", f"model.archive=run:{0:012x}")
        runs.append(SweepRun(index, f"{index:012x}", "x", start, stage="sft", number=index - 1, parent=0))
    rows: list[dict[str, Any]] = [{"run_id": f"{index:012x}", "eval/loss": 1.0 + index} for index in range(60)]
    rows[7]["state"] = "FAILED"
    sweep = submit(tmp_path / "sweeps" / "mine", runs)
    (axes,) = (figure := pipeline(sweep, run_frame(rows))).axes
    assert boxes(axes) == [
        ["pretrain", "1 run", "1 COMPLETED", "best eval loss 1.0000"],
        ["sft", "99 runs", "58 COMPLETED", "1 FAILED", "40 PENDING", "best eval loss 2.0000"],
    ]
    assert notes(figure) == ["broken frame: FAILED"]
    assert_readable(figure)


def test_a_sweep_without_stages_has_no_tree(tmp_path: Path) -> None:
    sweep = submit(tmp_path / "sweeps" / "mine", [SweepRun(0, "0" * 12, "x", ("seed=1",))])
    with pytest.raises(NothingToPlot, match="a sweep with stages is needed, but mine/1 has none"):
        pipeline(sweep, run_frame([{"seed": 1}]))


def test_the_command_saves_what_there_is_and_says_what_is_not(
    make_run: Any, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for beta in (0.1, 0.3):
        make_run({"loss.beta": beta})
    assert main([str(outputs), "parameter", "frontier", "-o", str(tmp_path / "here")]) == 0
    files = [tmp_path / "here" / f"{name}.png" for name in ("parameter", "frontier")]
    assert capsys.readouterr().out == "".join(f"figure: {file}\n" for file in files)
    assert imread(files[0]).shape[2] == 4
    assert main([str(outputs), "--format", "svg"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        *["figure"] * 3, "no parallel", "no heat_map", "no sensitivity", "no pipeline",
    ]  # fmt: skip
    assert sorted(file.name for file in (outputs / "figures").iterdir()) == [
        "curves.svg",
        "frontier.svg",
        "parameter.svg",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["outputs", "pie"], "a figure must be one of curves, parameter, .*, but is pie"),
        (["outputs", "parallel"], "parallel: 2 config keys that vary are needed"),
        (["outputs", "parameter", "--metric", "nothing"], "must be a metric of the runs, but is 'nothing'"),
        (["outputs", "curves", "--smooth", "7"], "smooth must be a fraction"),
        (["outputs", "curves", "-o", "outputs/file/folder"], "give another -o FOLDER"),
        (["outputs", "curves", "--over", "gamma"], "the runs have no gamma"),
        (["outputs", "curves", "--over", "name"], "optimizer_params.name have that name"),
        (["nowhere"], "nowhere is no folder, and no sweep"),
    ],
)
def test_what_was_asked_for_and_cannot_be_drawn_exits_2(
    arguments: list[str],
    message: str,
    make_run: Any,
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run({"loss.beta": 0.1})
    (outputs / "file").write_text("")
    monkeypatch.chdir(outputs.parent)
    assert main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)
