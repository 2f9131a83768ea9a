"""Figures of final values: the right points on the right axes, nothing left out in silence, and all of it readable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from scipy import stats

from analysis.plots import NothingToPlot, frontier, heat_map, parallel, parameter, sensitivity
from gpt_opt.errors import GptOptError
from tests.analysis.plots.frames import ACCURACY, LR, NAME, grid, metric_frame, run_frame
from tests.analysis.plots.texts import assert_readable, notes

BATCH = "training.training_params.batch_size"
DIVERGED = {"state": "FAILED", "error": "LossNotFinite: loss is NaN at step 3", "eval/loss": math.nan}
PATH = "/scratch/some/very/long/folder/name/of/preferences/version-{:02d}/train.jsonl"


def marked(axes: Axes, marker: str, line: bool | None = None) -> list[tuple[float, float]]:
    """Returns the points with a marker; of those with, or without, a line where that is asked."""
    found = [item for item in axes.get_lines() if item.get_marker() == marker]
    kept = [item for item in found if line is None or (item.get_linestyle() != "None") is line]
    return [point for item in kept for point in points(item)]


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(*map(np.asarray, line.get_data()), strict=True)]


def joined(axes: Axes) -> list[list[tuple[float, float]]]:
    return [points(line) for line in axes.get_lines() if line.get_linestyle() == "-" and line.get_marker() == "None"]


def lr_sweep(**more: Any) -> list[dict[str, Any]]:
    """Returns runs of two optimizers over learning rates, of which the largest diverges and the next is far off."""
    rows = grid(**{NAME: ["adamw", "muon"], LR: [1e-4, 1e-3, 1e-2, 1e-1, 1.0]}, **more)
    for row in rows:
        off = 300.0 if row[LR] == 0.1 else abs(math.log10(row[LR]) + 3) / 10
        row |= DIVERGED if row[LR] == 1.0 else {"eval/loss": 3 - 0.1 * (row[NAME] == "muon") + off}
    return rows


def random_draws(count: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        row: dict[str, Any] = {LR: float(10 ** rng.uniform(-4, -1)), "loss.beta": float(rng.uniform(0.05, 0.5))}
        row |= {NAME: str(rng.choice(["adamw", "muon"])), "lora.r": rng.choice([None, 8, 16])}
        rows.append({**row, "eval/loss": float(3 + rng.normal(0, 0.1)), "loss.reference_free": bool(rng.integers(2))})
    return run_frame(rows)


def test_one_parameter_is_the_mean_over_seeds_with_its_interval() -> None:
    rows = grid(loss__beta=[0.3, 0.05, 0.1], seed=[0, 1, 2])
    runs = run_frame([{**row, ACCURACY: 0.5 + row["loss.beta"] + 0.01 * row["seed"]} for row in rows])
    (axes,) = (figure := parameter(runs)).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("beta", "eval accuracy at the end")
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.05", "0.1", "0.3"]
    assert joined(axes) == [[(0.05, pytest.approx(0.56)), (0.1, pytest.approx(0.61)), (0.3, pytest.approx(0.81))]]
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    bars = [bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
    ends = sorted(segment[:, 1].tolist() for bar in bars for segment in bar.lines[2][0].get_segments())
    assert ends[0] == pytest.approx([0.56 - half, 0.56 + half])
    assert notes(figure) == ["a run", "the best", "mean over seed and its 95% interval"]
    assert_readable(figure)
    axes.figure.draw_without_rendering()
    assert any(label.get_text().endswith("%") for label in axes.get_yticklabels())


def test_two_seeds_have_no_interval() -> None:
    runs = run_frame([{**row, "eval/loss": 1 + row["seed"]} for row in grid(loss__beta=[1, 2, 3], seed=[0, 1])])
    (axes,) = (figure := parameter(runs)).axes
    assert (axes.get_xscale(), axes.containers) == ("linear", [])
    assert notes(figure)[-1] == "mean over seed"


def test_several_parameters_have_a_panel_each_with_the_best_of_every_value() -> None:
    runs = run_frame(lr_sweep(**{BATCH: [16, 32]}))
    first, second = (figure := parameter(runs, by=["optimizer_params.name", "lr"])).axes
    assert [first.get_xlabel(), second.get_xlabel()] == ["optimizer", "lr"]
    assert marked(first, "_") == [(0, 3.0), (1, 2.9)]
    assert joined(first) == []
    (line,) = joined(second)
    assert line == [(1e-4, 3.0), (1e-3, 2.9), (1e-2, 3.0), (1e-1, pytest.approx(302.9))]
    assert set(marked(second, "x")) == {(1.0, 0.97)}
    assert set(marked(second, "^")) == {(0.1, 0.91)}
    assert second.get_ylim()[1] < 4
    assert notes(figure) == [
        "a run", "the best of each value", "the best", "beyond the axis (4 runs)", "diverged (4 runs)",
    ]  # fmt: skip
    assert_readable(figure)


def test_runs_that_are_not_done_are_counted() -> None:
    more: list[dict[str, Any]] = [{}, {"state": "RUNNING"}, {"state": "FAILED", "error": "Killed"}, {"eval/loss": None}]
    rows = [{**row, "eval/loss": 1.0, **more[row["seed"]]} for row in grid(loss__beta=[1, 2], seed=range(4))]
    figure = parameter(run_frame([*rows, {"loss.beta": 3, "seed": 0, "eval/loss": 0.5}]))
    assert notes(figure)[-1] == "not shown: 6 runs (2 failed, 2 not finished, 2 without a value)"
    assert_readable(figure)


def test_a_run_without_a_number_is_not_joined_to_the_others() -> None:
    rows = [{"lora.r": rank, LR: lr, "eval/loss": 1.0} for rank in (None, 8, 16) for lr in (1, 2)]
    rank, _ = parameter(run_frame(rows)).axes
    assert [x for x, _ in joined(rank)[0]] == [8, 16]
    assert [label.get_text() for label in rank.get_xticklabels()] == ["(none)", "8", "16"]


@pytest.mark.parametrize("draw", [parameter, parallel, heat_map])
def test_without_anything_to_draw_it_says_what_there_is(draw: Any) -> None:
    with pytest.raises(NothingToPlot, match=r"but what varies between them is seed \(3 runs\); sweep one more"):
        draw(run_frame([{"loss.beta": 0.1, "seed": seed, "eval/loss": 1.0} for seed in range(3)]))
    with pytest.raises(NothingToPlot, match=r"eval/loss is needed, but there is none \(2 not finished\); there is kl"):
        draw(run_frame([{"loss.beta": beta, "kl": 1.0, "state": "RUNNING"} for beta in (1, 2)]))
    with pytest.raises(NothingToPlot, match="there are no runs"):
        draw(run_frame([{"loss.beta": 1, "eval/loss": 1.0}]).iloc[:0])
    with pytest.raises(GptOptError, match="eval/rewards/accuracies"):
        draw(random_draws(3).assign(**{ACCURACY: 0.5}), metric="no_such")
    with pytest.raises(NothingToPlot, match="beside seed"):
        draw(run_frame([{"loss.beta": 0.1, "seed": 0, "eval/loss": 1.0}, {"loss.beta": 0.1, "seed": 1}]))


def test_parallel_coordinates_end_at_the_metric_and_the_best_is_thick() -> None:
    runs = run_frame(lr_sweep(**{BATCH: [16, 32]}))
    (axes,) = (figure := parallel(runs)).axes
    settings = [line for line in axes.get_lines() if len(points(line)) == 4]
    assert len(settings) == 20
    (best,) = (line for line in settings if line.get_linewidth() == 3)
    heights = [y for _, y in points(best)]
    assert heights[0] == pytest.approx(1, abs=0.04)
    assert heights[1] == pytest.approx(0.25, abs=0.04)
    assert heights[3] == 0
    grey = [line for line in settings if line.get_linestyle() == ":"]
    assert {points(line)[-1] for line in grey} == {(3, -0.1)}
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "optimizer",
        "lr",
        "batch_size",
        "eval loss at the end",
    ]
    lightness = [(sum(line.get_color()[:3]), points(line)[-1][1]) for line in settings if line not in grey]  # type: ignore[misc]
    assert min(lightness)[1] == 0
    assert notes(figure) == ["diverged (4 runs)", "darker is better, thick: the best"]
    assert_readable(figure)


def cells(axes: Axes) -> dict[tuple[float, float], str]:
    return {(text.get_position()): text.get_text() for text in axes.texts}


def test_a_heat_map_has_the_best_of_each_pair_and_a_frame_around_the_best_of_all() -> None:
    rows = lr_sweep(**{BATCH: [16, 32]})
    for row in rows:
        row["eval/loss"] += row[BATCH] == 32
    axes, bar = (figure := heat_map(run_frame(rows), x="lr", y="optimizer_params.name")).axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("lr", "optimizer", "eval loss at the end")
    assert cells(axes) == {
        (0, 0): "3.1000", (1, 0): "3.0000", (2, 0): "3.1000", (3, 0): "303.0000",
        (0, 1): "3.0000", (1, 1): "2.9000", (2, 1): "3.0000", (3, 1): "302.9000",
    }  # fmt: skip
    assert set(marked(axes, "x")) == {(4, 0), (4, 1)}
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    assert {(round(patch.get_x() + 0.46), round(patch.get_y() + 0.43)) for patch in frames} == {(1, 1)}
    assert bar.get_ylim()[1] < 5
    assert notes(figure) == ["diverged (4 runs)", "frame: the best", "a cell: the best over batch_size"]
    assert_readable(figure)


def test_random_draws_are_points_in_place_of_cells() -> None:
    runs = random_draws()
    axes = (figure := heat_map(runs, x="lr", y="beta")).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    (dots,) = axes.collections
    assert np.asarray(dots.get_offsets()).tolist() == runs[[LR, "loss.beta"]].to_numpy().tolist()
    best = runs.loc[runs["eval/loss"].idxmin()]
    ring = [line for line in axes.get_lines() if line.get_markersize() == 16]
    assert points(ring[0]) == [(best[LR], best["loss.beta"])]
    assert_readable(figure)


def preference_runs() -> pd.DataFrame:
    ends = {0.03: (0.70, 30.0), 0.1: (0.75, 10.0), 0.3: (0.72, 3.0), 1.0: (0.70, 1.0)}
    rows = grid(loss__beta=list(ends), seed=[0, 1, 2])
    for row in rows:
        accuracy, kl = ends[row["loss.beta"]]
        row |= {ACCURACY: accuracy + 0.01 * (row["seed"] - 1), "eval/kl": kl}
    return run_frame(rows)


def test_the_frontier_joins_what_no_other_setting_beats() -> None:
    runs = preference_runs()
    metrics = metric_frame(runs, lambda run, steps: {
        ACCURACY: 0.5 + (run[ACCURACY] - 0.5) * steps / 100, "eval/kl": run["eval/kl"] * steps / 100,
        "eval/rewards/margins": steps / 100,
    })  # fmt: skip
    (axes,) = (figure := frontier(runs, metrics)).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("eval KL (nats) at the end", "eval accuracy at the end")
    assert axes.get_xscale() == "log"
    front = next(points(line) for line in axes.get_lines() if line.get_linestyle() == "--")
    assert front == [(1.0, pytest.approx(0.7)), (3.0, pytest.approx(0.72)), (10.0, pytest.approx(0.75))]
    ways = [points(line) for line in axes.get_lines() if line.get_alpha() == 0.45]
    assert [way[-1][0] for way in ways] == pytest.approx([30, 10, 3, 1])
    assert ways[0][0] == (pytest.approx(3), pytest.approx(0.52)), "the tie before training is left out"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "beta=0.03",
        "beta=0.1",
        "beta=0.3",
        "beta=1",
    ]
    assert notes(figure)[0] == "no other is better in both"
    assert_readable(figure)
    (axes,) = frontier(runs, metrics, cost="time_s").axes
    assert not [line for line in axes.get_lines() if line.get_alpha() == 0.45], "only a summary has it: no ways there"
    with pytest.raises(NothingToPlot, match=r"a value of eval/kl is needed.*there is eval/rewards/accuracies"):
        frontier(runs.drop(columns="eval/kl"))
    apart = runs.assign(**{"eval/kl": runs["eval/kl"].where(runs["loss.beta"] < 0.2)})
    with pytest.raises(NothingToPlot, match="none has both"):
        frontier(apart.assign(**{ACCURACY: runs[ACCURACY].where(runs["loss.beta"] > 0.2)}))


def test_sensitivity_is_a_line_an_optimizer() -> None:
    axes = (figure := sensitivity(run_frame(lr_sweep(seed=[0, 1])))).axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["muon", "adamw"]
    assert_readable(figure)
    with pytest.raises(GptOptError, match=r"loss.beta is 0.1, 0.3; give"):
        sensitivity(run_frame([{NAME: "adamw", LR: 0.1, "loss.beta": beta, "eval/loss": 1.0} for beta in (0.1, 0.3)]))


NASTY: list[list[dict[str, Any]]] = [
    grid(data__dataset__path=[PATH.format(i) for i in range(12)], model__config__enable_mup_with_base_n_embd=[8, None]),
    grid(optimizer__optimizer_params__betas=[[0.9, 0.95], [0.8, 0.99]], loss__reference_free=[True, False]),
]


@pytest.mark.parametrize("rows", [*NASTY, None])
def test_figures_of_nasty_data_are_readable(rows: list[dict[str, Any]] | None) -> None:
    rng = np.random.default_rng(1)
    metric = {} if rows is None else {ACCURACY: rng.uniform(0.5, 0.9, len(rows))}
    runs = random_draws() if rows is None else run_frame(rows).assign(**metric)
    figures: list[Figure] = [parameter(runs), parallel(runs), heat_map(runs)]
    for figure in figures:
        assert_readable(figure)
