"""The figure: which panels, which curves, which colours, which names; and python -m analysis.plot_curves."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from scipy import stats

from analysis import load_metrics, load_runs
from analysis.plot_curves import main
from analysis.plots import NothingToPlot, curves
from analysis.plots import __main__ as figures
from analysis.plots.looks import FEW as FEW_RUNS
from analysis.plots.looks import OTHERS
from analysis.plots.style import LABEL_LIMIT
from analysis.plots.traces import groups_over
from gpt_opt.errors import GptOptError
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State
from tests.analysis.plots.frames import LR, NAME, grid, metric_frame, run_frame
from tests.analysis.plots.texts import assert_readable, notes, shown_texts

MakeRun = Callable[..., RunPaths]

ALL_PANELS = ["loss (bold: eval, thin: train)", "eval accuracy", "eval margin", "eval KL (nats)"]


def draw(outputs: Path) -> Figure:
    return curves(load_runs(outputs), load_metrics(outputs))


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def names(figure: Figure) -> list[str]:
    return [text.get_text() for text in legends(figure)[0].get_texts()]


def lines(axes: Axes) -> list[Line2D]:
    """Returns the lines that are meant to be read, without faint and thin ones."""
    return [line for line in axes.get_lines() if line.get_linewidth() > 1 and line.get_linestyle() != "None"]


def faint(axes: Axes) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_alpha() == 0.25]


def bands(axes: Axes) -> list[np.ndarray]:
    """Returns the steps, lower and upper ends of each band, of shape (steps, 3)."""
    found = []
    for band in axes.collections:
        ends = np.asarray(band.get_paths()[0].vertices)
        steps = np.unique(ends[:, 0])
        sides = [[ends[ends[:, 0] == step, 1].min(), ends[ends[:, 0] == step, 1].max()] for step in steps]
        found.append(np.column_stack([steps, sides]))
    return found


def legends(figure: Figure) -> list[Legend]:
    return [child for child in figure.get_children() if isinstance(child, Legend)]


def colors(axes: Axes) -> list[object]:
    return [line.get_color() for line in axes.get_lines()]


def xs(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata())]


def test_four_panels_with_one_colour_a_run_in_order(make_run: MakeRun, outputs: Path) -> None:
    for beta in (0.3, 0.05, 0.1):
        make_run({"loss.beta": beta}, scale=beta)
    figure = draw(outputs)
    assert titles(figure) == ALL_PANELS
    assert names(figure) == ["beta=0.05", "beta=0.1", "beta=0.3"]
    loss, accuracy, margin, kl = figure.axes
    assert [ys(line)[-1] for line in margin.get_lines()] == pytest.approx([0.01, 0.02, 0.06])
    assert xs(margin.get_lines()[0]) == [10, 20]
    assert len(set(colors(margin))) == 3
    assert colors(loss) == colors(margin) * 2
    assert colors(accuracy) == colors(kl) == colors(margin)
    train, evaluation = loss.get_lines()[0], loss.get_lines()[3]
    assert ys(train) == pytest.approx([0.59, 0.58])
    assert ys(evaluation) == [0.6, 0.6]
    assert evaluation.get_linewidth() > train.get_linewidth()


def test_panels_without_data_are_left_out(make_run: MakeRun, outputs: Path) -> None:
    make_run(rows=[{"step": 1, "loss": 1.0, "eval/loss": 1.1}])
    assert titles(draw(outputs)) == ALL_PANELS[:1]


def test_runs_that_were_never_evaluated(make_run: MakeRun, outputs: Path) -> None:
    make_run(rows=[{"step": step, "loss": 1 / step, "rewards/accuracies": 0.5} for step in (1, 2)])
    figure = draw(outputs)
    assert titles(figure) == ["loss (train)"]
    assert figure.axes[0].get_lines()[0].get_linewidth() > 1


def test_a_run_may_lack_what_others_have(make_run: MakeRun, outputs: Path) -> None:
    make_run({"loss.beta": 0.1})
    make_run({"loss.beta": 0.2}, rows=[{"step": 1, "loss": 1.0}])
    make_run({"loss.beta": 0.3}, rows=[], state=State.PENDING, final=None)
    figure = draw(outputs)
    assert titles(figure) == ALL_PANELS
    assert [len(axes.get_lines()) for axes in figure.axes] == [3, 1, 1, 1]
    assert names(figure) == ["beta=0.1", "beta=0.2"]
    assert notes(figure) == ["1 run without a value to draw"]


def test_only_the_given_runs_are_drawn(make_run: MakeRun, outputs: Path) -> None:
    make_run({"loss.beta": 0.1})
    make_run({"loss.beta": 0.2})
    runs = load_runs(outputs)
    figure = curves(runs[runs["loss.beta"] == 0.2], load_metrics(outputs))
    assert names(figure) == ["beta=0.2"]
    assert len(figure.axes[1].get_lines()) == 1


def test_values_that_are_not_finite_are_left_out(make_run: MakeRun, outputs: Path) -> None:
    losses = [0.7, math.inf, math.nan, 0.6]
    make_run(rows=[{"step": step, "loss": loss, "eval/kl": math.nan} for step, loss in enumerate(losses, start=1)])
    figure = draw(outputs)
    assert titles(figure) == ["loss (train)"]
    assert xs(figure.axes[0].get_lines()[0]) == [1, 4]


def test_accuracy_before_training_is_left_out_because_all_pairs_are_ties(make_run: MakeRun, outputs: Path) -> None:
    points = [(0, 0.0, 0.0), (10, 0.7, 0.2)]
    make_run(rows=[{"step": s, "eval/rewards/accuracies": a, "eval/rewards/margins": m} for s, a, m in points])
    accuracy, margin = draw(outputs).axes
    assert xs(accuracy.get_lines()[0]) == [10]
    assert xs(margin.get_lines()[0]) == [0, 10]


def test_a_diverged_run_does_not_flatten_the_others(make_run: MakeRun, outputs: Path) -> None:
    make_run({"loss.beta": 0.1}, rows=[{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5}])
    make_run({"loss.beta": 0.2}, rows=[{"step": 1, "loss": 0.7}, {"step": 2, "loss": 1e9}])
    (axes,) = draw(outputs).axes
    low, high = axes.get_ylim()
    assert low < 0.5
    assert high == pytest.approx(1.05)
    assert "cut at 1.05" in axes.get_title()


def test_many_values_are_explained_by_a_colour_bar(make_run: MakeRun, outputs: Path) -> None:
    for count in range(30):
        make_run({"loss.beta": 0.01 * 1.2**count})
    figure = draw(outputs)
    assert len(figure.axes) == 5
    assert figure.axes[4].get_ylabel() == "beta"
    assert figure.axes[4].get_yscale() == "log"
    labels = [tick.get_text() for tick in figure.axes[4].get_yticklabels()]
    assert (len(labels), labels[0], labels[-1]) == (6, "0.01", "2")
    assert not any(isinstance(child, Legend) for child in figure.get_children())
    assert len(set(colors(figure.axes[2]))) == 30


def test_many_runs_of_few_values_share_colours(make_run: MakeRun, outputs: Path) -> None:
    for number in range(FEW_RUNS + 1):
        make_run({"loss.beta": 0.3 if number % 3 else 0.05, "optimizer.optimizer_params.lr": 1e-4 * (1 + number)})
    figure = draw(outputs)
    assert names(figure) == ["beta=0.05 (5 runs)", "beta=0.3 (8 runs)"]
    assert [colors(figure.axes[1]).count(color) for color in dict.fromkeys(colors(figure.axes[1]))] == [5, 8]


def curve(last: float, steps: int = 3) -> list[dict[str, float]]:
    return [
        {"step": step, "eval/loss": 1 + (last - 1) * step / (steps - 1), "eval/kl": last * step}
        for step in range(steps)
    ]


def test_of_many_runs_a_dozen_has_names_the_best_and_the_worst_among_them(make_run: MakeRun, outputs: Path) -> None:
    for count in range(40):
        path = f"/a/long/common/folder/of/all/preference/pairs/version-{count:02d}/train-without-duplicates.jsonl"
        make_run({"data.dataset.path": path}, rows=curve(0.01 * (count + 1)))
    figure = draw(outputs)
    entries = names(figure)
    assert len(entries) == len(set(entries)) == FEW_RUNS
    assert max(map(len, entries)) <= 40
    versions = [int(entry.partition("version-")[2][:2]) for entry in entries]
    assert versions[:6] == [0, 1, 2, 3, 4, 5]
    assert versions[-3:] == [37, 38, 39]
    assert notes(figure) == ["28 other runs between the best 6 and the worst 3"]
    assert colors(figure.axes[0]).count(OTHERS.color) == 28
    assert figure.axes[1].get_yscale() == "log", "from 0.02 to 0.8"


def test_names_have_the_key_rounded_numbers_and_what_varies_among_the_drawn(make_run: MakeRun, outputs: Path) -> None:
    for rate in (0.0005828421329311054, 0.015217867567687417, 0.03218644145676057):
        make_run({"optimizer.optimizer_params.lr": rate, "loss.beta": 0.123456789012})
    make_run({"data.dataset.name": "other", "loss.beta": 3.0}, state=State.FAILED, rows=[], final=None)
    assert names(draw(outputs)) == ["lr=0.000583", "lr=0.0152", "lr=0.0322"]


def test_long_values_that_many_runs_share_keep_the_name_of_their_key(make_run: MakeRun, outputs: Path) -> None:
    for number in range(FEW_RUNS + 1):
        make_run({"data.dataset.name": f"/scratch/a-rather-long-folder/preferences/version-{number % 2}/pairs.jsonl"})
    found = names(draw(outputs))
    assert [text.partition("=")[0] for text in found] == ["dataset", "dataset"]
    assert all(mark in text for mark, text in zip(("version-0", "version-1"), found, strict=True))


def test_lines_differ_by_more_than_colour(make_run: MakeRun, outputs: Path) -> None:
    for count in range(FEW_RUNS):
        make_run({"seed": count})
    lines = curves(load_runs(outputs), load_metrics(outputs), over=None).axes[1].get_lines()
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == FEW_RUNS


def test_failed_runs_are_marked_where_they_ended_and_counted(make_run: MakeRun, outputs: Path) -> None:
    make_run({"loss.beta": 0.1}, rows=curve(0.5))
    make_run({"loss.beta": 0.2}, rows=curve(0.7, 2), state=State.FAILED, final=None)
    make_run({"loss.beta": 0.3}, rows=[], state=State.FAILED, final=None)
    figure = draw(outputs)
    marks = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert [(xs(line), ys(line)) for line in marks] == [([1.0], [pytest.approx(0.7)])]
    assert notes(figure) == ["failed (2 runs)", "1 run without a value to draw"]


def test_colours_go_by_what_is_studied_and_not_by_the_seed(make_run: MakeRun, outputs: Path) -> None:
    for count in range(FEW_RUNS + 4):
        make_run({"loss.beta": 0.1 if count % 2 else 0.3, "seed": count // 2})
    each = curves(load_runs(outputs), load_metrics(outputs), over=None)
    assert names(each) == ["beta=0.1 (8 runs)", "beta=0.3 (8 runs)"]
    assert names(draw(outputs)) == ["beta=0.1", "beta=0.3"]


def noisy(run: pd.Series, steps: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a curve that falls to the value of beta, shifted by the seed."""
    return {"eval/loss": 1 - (1 - run["loss.beta"]) * steps / 100 + 0.01 * run["seed"]}


def test_runs_of_several_seeds_are_their_mean_with_its_interval() -> None:
    runs = run_frame(grid(loss__beta=[0.3, 0.1], seed=[0, 1, 4]))
    (axes,) = (figure := curves(runs, metric_frame(runs, noisy))).axes
    assert names(figure) == ["beta=0.1", "beta=0.3"]
    assert notes(figure) == ["line: mean of 3 runs, band: its 95% interval"]
    low, high = lines(axes)
    assert ys(low)[-1] == pytest.approx(0.1 + 0.05 / 3)
    assert ys(high)[-1] == pytest.approx(0.3 + 0.05 / 3)
    assert faint(axes) == []
    half = stats.t.ppf(0.975, 2) * np.std([0, 0.01, 0.04], ddof=1) / math.sqrt(3)
    assert bands(axes)[0][-1] == pytest.approx([100, 0.1 + 0.05 / 3 - half, 0.1 + 0.05 / 3 + half])
    assert_readable(figure)


@pytest.mark.parametrize("kinds", [([0.9, 0.99], [0.9, 0.95], [0.8, 0.9]), (1, [2], [3, 4])])
def test_runs_that_differ_in_a_list_are_averaged(kinds: tuple[object, ...]) -> None:
    runs = run_frame([{"adam.betas": kind} for kind in (*kinds, None)])
    assert groups_over(runs, "adam.betas") == [[0, 1, 2], [3]]


def test_the_command_averages_over_a_list_by_the_end_of_its_name(
    make_run: MakeRun, outputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for betas in ([0.9, 0.99], [0.9, 0.95]):
        make_run({"optimizer.optimizer_params.betas": betas})
    asked = []

    def curves_of(runs: pd.DataFrame, *arguments: Any) -> Figure:
        asked.append(arguments[-1])
        return curves(runs, *arguments)

    monkeypatch.setattr(figures, "curves", curves_of)
    assert figures.main([str(outputs), "curves", "--over", "betas", "-o", str(tmp_path / "here")]) == 0
    assert asked == ["optimizer.optimizer_params.betas"]
    assert (tmp_path / "here" / "curves.png").exists()


def test_two_seeds_have_no_interval_and_are_drawn_themselves() -> None:
    runs = run_frame(grid(loss__beta=[0.1], seed=[0, 1]))
    (axes,) = (figure := curves(runs, metric_frame(runs, noisy))).axes
    assert bands(axes) == []
    assert [ys(line)[-1] for line in faint(axes)] == pytest.approx([0.1, 0.11])
    assert ys(lines(axes)[0])[-1] == pytest.approx(0.105)
    assert notes(figure) == ["line: mean of 2 runs, faint: each run"]


def test_a_mean_ends_where_the_first_run_is_and_leaves_out_those_that_failed() -> None:
    runs = run_frame(
        [
            {"loss.beta": 0.1, "seed": 0},
            {"loss.beta": 0.1, "seed": 1, "state": "RUNNING"},
            {"loss.beta": 0.1, "seed": 2},
            {"loss.beta": 0.1, "seed": 9, "state": "FAILED"},
        ]
    )
    metrics = metric_frame(runs, noisy)
    running = metrics["run_id"] == runs["run_id"][1]
    (axes,) = (figure := curves(runs, metrics[~running | (metrics["step"] <= 50)])).axes
    (mean,) = lines(axes)
    assert (xs(mean)[-1], ys(mean)[0]) == (50, pytest.approx(1.01))
    assert [xs(line)[-1] for line in faint(axes)] == [100, 50, 100, 100]
    assert notes(figure)[0] == "failed (1 run)"


def test_over_tokens_and_time() -> None:
    runs = run_frame(
        [
            {"loss.beta": 0.1, "seed": 0, "tokens": 4000},
            {"loss.beta": 0.2, "seed": 0, "tokens": None, "state": "RUNNING", "step": 50},
        ]
    )
    metrics = metric_frame(runs, noisy)
    (axes,) = (figure := curves(runs, metrics, x="tokens")).axes
    assert axes.get_xlabel() == "training tokens"
    assert [xs(line)[-1] for line in lines(axes)] == [4000]
    assert notes(figure) == ["1 run without a value to draw"]
    (axes,) = curves(runs, metrics.assign(tokens=metrics["step"] * 7), x="tokens").axes
    assert [xs(line)[-1] for line in lines(axes)] == [700, 700]
    (axes,) = curves(runs, metrics, x="time").axes
    assert (axes.get_xlabel(), xs(lines(axes)[0])[-1]) == ("time since the first logged value (s)", 60)
    with pytest.raises(NothingToPlot, match="and a count of tokens, which finished runs have,"):
        curves(runs[1:], metrics, x="tokens")


def test_hours_are_not_counted_in_seconds_and_pauses_between_attempts_not_at_all() -> None:
    runs = run_frame([{"loss.beta": 0.1, "seed": 0, "attempt": 2}])
    metrics = metric_frame(runs, noisy)
    start = metrics["time"].iloc[0]
    slow = metrics.assign(time=start + (metrics["time"] - start) * 600)
    (axes,) = (figure := curves(runs, slow, x="time")).axes
    assert axes.get_xlabel() == "time since the first logged value (h)"
    assert xs(lines(axes)[0])[-1] == 36000
    assert [text.get_text() for text in shown_texts(figure) if text in axes.get_xticklabels()] == [*"02468", "10"]
    paused = metrics.assign(time=metrics["time"] + pd.to_timedelta((metrics["step"] > 40) * 9, unit="h"))
    assert xs(lines(curves(runs, paused, x="time").axes[0])[0])[-1] == pytest.approx(60)
    assert xs(lines(curves(runs.assign(attempt=1), paused, x="time").axes[0])[0])[-1] == pytest.approx(60 + 9 * 3600)


def test_smoothing_takes_noise_out_and_leaves_what_is_straight() -> None:
    runs = run_frame([{"loss.beta": 0.1, "seed": 0}])
    straight = metric_frame(runs, noisy)
    (axes,) = (figure := curves(runs, straight, smooth=0.1)).axes
    assert ys(lines(axes)[0]) == pytest.approx(straight["eval/loss"].tolist())
    assert notes(figure) == ["faint: as logged"]
    noise = np.random.default_rng(0).normal(0, 0.1, 2000)
    steps = np.arange(2000)
    rows = {"run_id": runs["run_id"][0], "path": runs["path"][0], "step": steps, "time": straight["time"].iloc[0]}
    (axes,) = curves(runs, pd.DataFrame({**rows, "eval/loss": 2 + noise}), smooth=0.03).axes
    assert ys(faint(axes)[0]) == pytest.approx((2 + noise).tolist())
    assert np.std(ys(lines(axes)[0])) < 0.02
    with pytest.raises(GptOptError, match="a fraction of the steps, 0 to 1, but is 2"):
        curves(runs, straight, smooth=2)


def test_any_metric_has_a_panel_and_an_absent_one_is_told_with_what_there_is() -> None:
    runs = run_frame([{"loss.beta": 0.1, "seed": 0}])
    metrics = metric_frame(runs, noisy).assign(**{"mine/score": 1.0, "grad_norm": 2.0, "kl": np.nan})
    figure = curves(runs, metrics, ["mine/score", "grad_norm", "kl"])
    assert titles(figure) == ["mine/score", "gradient norm"]
    with pytest.raises(NothingToPlot, match=r"a logged value of eval/kl is needed, .*; there is eval/loss, mine/score"):
        curves(runs, metrics, "eval/kl")


def test_figures_of_many_kinds_are_readable() -> None:
    path = "/a/long/common/folder/of/all/preference/pairs/version-{:02d}/train-without-duplicates.jsonl"
    many = [{"data.dataset.path": path.format(number), "loss.beta": 0.01 * number, "seed": 0} for number in range(40)]
    for rows in (
        [{"seed": 0}],
        [{**row, "state": "FAILED" if row["loss.beta"] > 0.3 else "COMPLETED"} for row in many],
    ):
        runs = run_frame([{"loss.beta": 0.1, **row} for row in rows])
        metrics = metric_frame(runs, lambda run, steps: {**noisy(run, steps), "loss": 1 - steps / 200})
        assert_readable(curves(runs, metrics))
        assert_readable(curves(runs, metrics.assign(**{"eval/kl": 10 ** (metrics["step"] / 30)}), x="time"))


def test_nothing_to_plot(make_run: MakeRun, outputs: Path) -> None:
    with pytest.raises(NothingToPlot, match="none of 0 runs"):
        draw(outputs)
    make_run(rows=[{"step": 1, "grad_norm": 1.0, "loss": math.nan}])
    with pytest.raises(NothingToPlot, match="none of 1 run has"):
        draw(outputs)


def test_the_command_saves_a_picture(make_run: MakeRun, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    assert main([str(outputs)]) == 0
    assert capsys.readouterr().out == f"figure: {outputs / 'curves.png'}\n"
    height, width, _ = imread(outputs / "curves.png").shape
    assert height >= 800
    assert width >= 1200


def test_the_command_saves_where_it_is_told(
    make_run: MakeRun, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run().summary.write_text("torn")
    assert main([str(outputs), "-o", str(tmp_path / "mine.png")]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"figure: {tmp_path / 'mine.png'}\n"
    assert printed.err.count("problem: ") == 1
    assert (tmp_path / "mine.png").exists()
    assert not (outputs / "curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no directory"),
        (["outputs"], "none of 0 runs"),
        (["full", "-o", "no/folder.png"], "give another -o FILE.png"),
        (["full", "-o", "curves.nothing"], "give another -o FILE.png"),
    ],
)
def test_what_cannot_be_drawn_exits_2(
    make_run: MakeRun,
    outputs: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(outputs.parent)
    if arguments[0] == "full":
        make_run()
        outputs.rename("full")
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_where_names_of_parameters_are_long_their_values_are_kept() -> None:
    runs = run_frame(grid(loss__label_smoothing=[0.0, 0.1], **{NAME: ["adam", "adamw"], LR: [0.001, 0.01]}))
    found = names(curves(runs, metric_frame(runs, lambda _, steps: {"loss": steps / 100})))
    values = itertools.product(("0", "0.1"), ("adam", "adamw"), ("0.001", "0.01"))
    assert [re.sub(r"[^, =]+=", "", name) for name in found] == [", ".join(row) for row in values]
    assert max(map(len, found)) <= LABEL_LIMIT


def test_a_band_that_goes_below_0_leaves_a_logarithmic_axis_as_it_is() -> None:
    runs = run_frame(grid(loss__beta=[0.1, 0.3], seed=[0, 1, 2]))
    kl = {0.1: 1e-3, 0.3: 1.0}
    metrics = metric_frame(
        runs, lambda run, steps: {"eval/kl": (0.01 + steps) * kl[run["loss.beta"]] * 10.0 ** run["seed"]}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (axes,) = (axes for axes in curves(runs, metrics).axes if "KL" in axes.get_title())
    assert axes.get_yscale() == "log"
    assert any(band[:, 1].min() < 0 for band in bands(axes)), "else this shows nothing"
    assert axes.get_ylim()[0] > 0
