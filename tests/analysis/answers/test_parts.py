"""What matters, what it costs, where the grid ends, and the stages of a sweep."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.answers import answer, edges, importance, pareto, settings, time_to_target
from analysis.answers.cost import with_gpu_seconds
from analysis.answers.edges import further_values
from analysis.answers.fates import DIVERGED
from analysis.answers.next_runs import extension, more_seeds
from analysis.answers.words import remarks
from analysis.next_sweeps import sweep_file
from gpt_opt.records.io import write_text
from gpt_opt.records.state import State
from tests.analysis.answers.frames import ACCURACY, frame, grid, run
from tests.analysis.conftest import MakeRun

LR = "optimizer.optimizer_params.lr"


# -- which parameter matters -------------------------------------------------------------------------------------------


def test_the_parameter_that_matters() -> None:
    rng = np.random.default_rng(1)
    runs = frame(
        *(
            run({"loss.beta": beta, LR: lr, "seed": seed}, 0.5 + beta / 2 + float(rng.normal(0, 0.02)))
            for beta in (0.1, 0.3, 0.5)
            for lr in (0.001, 0.003)
            for seed in (0, 1, 2)
        )
    )
    found = importance(runs, ACCURACY)
    assert found is not None
    assert list(found.of_factor) == ["loss.beta", LR, "seed"]
    assert found.of_factor["loss.beta"] > 0.9
    line = next(
        line for line in remarks(answer(runs)) if line.startswith("variance of the 18 values explained: beta 98%")
    )
    assert "lr 0% (no more than chance)" in line


def test_nothing_is_said_of_what_matters_where_any_division_would_fit() -> None:
    found = answer(grid({0.1: [0.5], 0.3: [0.6], 0.5: [0.9]}))
    assert not [line for line in remarks(found) if line.startswith("variance")]


# -- cost --------------------------------------------------------------------------------------------------------------


def _costly() -> pd.DataFrame:
    points = {1: (0.5, 10.0), 2: (0.8, 20.0), 3: (0.7, 30.0), 4: (0.9, 80.0), 5: (0.8, 20.0)}
    return frame(*(run({LR: float(lr), "seed": 0}, value, time_s=time) for lr, (value, time) in points.items()))


def test_the_pareto_front() -> None:
    found = settings(_costly(), ACCURACY)
    assert [item.values[LR] for item in pareto(found, True)] == [1.0, 2.0, 4.0]
    assert [item.values[LR] for item in pareto(found, False)] == [1.0]
    assert [item.values[LR] for item in pareto(found, True, "tokens")] == [4.0]
    assert pareto(found, True, "gpu_s") == []
    line = next(line for line in remarks(answer(_costly())) if line.startswith("no setting is both better and cheaper"))
    assert line.endswith("than these: lr=1 (50.0%, 10 seconds); lr=2 (80.0%, 20 seconds); lr=4 (90.0%, 80 seconds)")


def test_gpu_seconds_are_seconds_times_gpus(make_run: MakeRun, outputs: Path) -> None:
    from analysis import load_runs

    make_run({"seed": 0}, time_s=10.0, gpus=["0", "1", "2"])
    make_run({"seed": 1}, time_s=10.0)
    assert with_gpu_seconds(load_runs(outputs))["gpu_s"].tolist() == pytest.approx([30.0, math.nan], nan_ok=True)


def test_time_to_a_target() -> None:
    runs = grid({0.1: [0.9, 0.9], 0.3: [0.5, 0.85]})
    curves = pd.concat(
        [
            pd.DataFrame(
                {
                    "path": path,
                    "step": [0, 50, 100],
                    ACCURACY: [0.4, 0.5, final],
                    "tokens_per_second": [math.nan, 20.0, 20.0],
                }
            )
            for path, final in zip(runs["path"], runs[ACCURACY], strict=True)
        ]
    )
    found = time_to_target(settings(runs, ACCURACY), runs, curves, 0.7, ACCURACY, True)
    assert [item.reached for item in found] == [2, 1]
    assert found[0].steps == pytest.approx(75)
    assert found[0].seconds == pytest.approx(75 * 10 / 20)  # 1,000 tokens in 100 steps, at 20 a second
    told = answer(runs, target=0.7, metrics=curves)
    assert "beta=0.1 reaches eval accuracy 70.0% in the fewest steps, 75 steps, 37.5 s" in remarks(told)
    assert told.table()["reached"].tolist() == [2, 1]
    assert "no run reached eval accuracy 99.0%" in remarks(answer(runs, target=0.99, metrics=curves))


# -- edges -------------------------------------------------------------------------------------------------------------


def _edges(values: dict[float, list[float | None]]) -> list[str]:
    found = settings(grid(values), ACCURACY)
    return [edge.sentence() for edge in edges(found, max(found, key=lambda item: item.mean if item.n else 0))]


def test_an_optimum_at_the_edge_of_the_grid() -> None:
    assert _edges({0.1: [0.5], 0.2: [0.6], 0.4: [0.7]}) == [
        "the best beta, 0.4, is the highest that was tried: try 0.8 and 1.6 next"
    ]
    assert _edges({0.1: [0.9], 0.2: [0.6], 0.4: [0.7]}) == [
        "the best beta, 0.1, is the lowest that was tried: try 0.025 and 0.05 next"
    ]
    assert _edges({0.0: [0.9], 0.2: [0.6], 0.4: [0.7]}) == []
    assert _edges({0.1: [0.5], 0.2: [0.8], 0.4: [0.7]}) == []
    assert _edges({0.1: [0.5], 0.2: [0.8], 0.4: [None]}) == [], "a value beyond is still to come"


def test_values_go_on_as_the_grid_does() -> None:
    assert further_values([0.0, 0.1, 0.2], "highest") == [0.3, 0.4]
    assert further_values([1e-4, 1e-3], "highest") == [0.01, 0.1]
    assert further_values([-0.1, 0.1], "lowest") == [-0.5, -0.3]
    assert further_values([0.0, 0.1], "lowest") == [], "of most parameters nothing is less than 0"
    assert further_values([1e-3], "only") == pytest.approx([1e-4, 3.16e-4, 3.16e-3, 1e-2])
    assert further_values([1e-3, 2e-3], "interior") == []
    assert further_values([2, 3], "lowest") == [1]
    assert further_values([1, 2], "lowest") == []
    assert further_values([4], "only") == [1, 13, 40]
    assert further_values([0, 10], "highest") == [20, 30]
    assert further_values([-2, 0], "lowest") == [-6, -4]


def test_integers_and_switches() -> None:
    rows = [
        run({"training.training_params.batch_size": size, "lora.use_dora": dora, "seed": 0}, size / 100 + dora / 1000)
        for size in (16, 32, 64)
        for dora in (False, True)
    ]
    found = settings(frame(*rows), ACCURACY)
    (edge,) = edges(found, max(found, key=lambda item: item.mean))
    assert (edge.key, edge.further) == ("training.training_params.batch_size", (128, 256))
    rows = [run({"training.training_params.batch_size": size, "seed": 0}, 1 / size) for size in (1, 2, 4)]
    found = settings(frame(*rows), ACCURACY)
    assert edges(found, found[0]) == [], "there is no integer to try below 1"
    rows = [run({"loss.beta": beta, "seed": 0}, 1 / beta) for beta in (1.0, 2.0, 4.0)]
    found = settings(frame(*rows), ACCURACY)
    assert [edge.further for edge in edges(found, found[0])] == [(0.25, 0.5)], "there are such numbers"


def test_an_edge_is_looked_for_beside_the_best_setting_and_in_a_random_search_among_all() -> None:
    apart = frame(*(run({LR: lr, "loss.beta": lr * 10, "seed": 0}, lr) for lr in (0.1, 0.2, 0.3)))
    found = settings(apart, ACCURACY)
    assert edges(found, found[-1]) == []
    search = frame(*(run({LR: lr, "loss.beta": 1 - lr, "seed": 0}, lr) for lr in np.linspace(0.1, 0.7, 7).tolist()))
    found = settings(search, ACCURACY)
    assert {edge.key: edge.where for edge in edges(found, found[-1])} == {LR: "highest", "loss.beta": "lowest"}


# -- what to run next --------------------------------------------------------------------------------------------------


def _run_dirs(make_run: MakeRun, values: dict[float, list[float]]) -> None:
    for beta, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            paths = make_run({"loss.beta": beta, "seed": seed}, final={ACCURACY: value})
            paths.hydra.mkdir()
            write_text(paths.hydra / "overrides.yaml", f"- loss.beta={beta}\n- seed={seed}\n")


def test_the_sweep_file_that_adds_seeds(make_run: MakeRun, outputs: Path) -> None:
    from analysis import load_runs

    _run_dirs(make_run, {0.1: [0.80, 0.84, 0.82], 0.3: [0.79, 0.80, 0.815], 1.0: [0.1, 0.12, 0.11]})
    runs = load_runs(outputs)
    found = answer(runs)
    members = more_seeds(found)
    assert members == [({"loss.beta": beta}, {"seed": list(range(10))}) for beta in (0.1, 0.3)]
    document = sweep_file("again", members, found.metric, found.greater, {"gpus_per_run": 1})
    assert document["union"] == [{"base": base, "grid": grid} for base, grid in members]
    assert document["metric"] == {"name": ACCURACY, "goal": "maximize"}
    assert document["resources"] == {"gpus_per_run": 1}
    assert extension(found) == [({}, {"loss.beta": [0.0111, 0.0333], "seed": [0, 1, 2]})]


def test_a_seed_that_diverged_is_known(make_run: MakeRun, outputs: Path) -> None:
    from analysis import load_runs

    _run_dirs(make_run, {0.1: [0.80, 0.84], 0.3: [0.79, 0.80]})
    lost = make_run({"loss.beta": 0.3, "seed": 2}, State.FAILED, final=None, error={"type": DIVERGED, "message": "NaN"})
    found = answer(load_runs(outputs))
    assert (found.settings[1].diverged, found.settings[1].seeds) == (1, {0, 1, 2})
    assert list(found.settings[1].ended)[2:] == [str(lost.root)]
    of_best, of_rival = (grid["seed"] for _, grid in more_seeds(found))
    assert (len(of_best), of_rival) == (len(of_rival) - 1, [*of_best, len(of_best)]), "another seed in its place"


def test_what_is_averaged_over_is_no_seed(make_run: MakeRun, outputs: Path) -> None:
    from analysis import load_runs

    size = "training.training_params.batch_size"
    for beta in (0.1, 0.3):
        for number in (8, 16):
            paths = make_run({"loss.beta": beta, size: number, "seed": 3}, final={ACCURACY: 1 - beta + number / 1e3})
            paths.hydra.mkdir()
            write_text(paths.hydra / "overrides.yaml", f"- loss.beta={beta}\n- {size}={number}\n- seed=3\n")
    members = extension(answer(load_runs(outputs), over=size))
    assert members == [({size: 8, "seed": 3}, {"loss.beta": [0.0111, 0.0333]})]


def test_nothing_to_add() -> None:
    clear = grid({0.1: [0.80, 0.81, 0.82, 0.83], 0.3: [0.70, 0.711, 0.72, 0.73]})
    assert more_seeds(answer(clear)) == []
    assert more_seeds(answer(clear, by=["seed"], over="loss.beta")) == []
    empty = grid({0.1: [None]})
    assert more_seeds(answer(empty)) == []
    assert extension(answer(empty)) == []


# -- stages ------------------------------------------------------------------------------------------------------------


def _pipeline() -> pd.DataFrame:
    """Two learning rates of SFT, DPO with two betas from each, all with two seeds; DPO from scratch beside them."""
    rows = []
    for number, (lr, seed) in enumerate((lr, seed) for lr in (0.001, 0.003) for seed in (0, 1)):
        config = {"loss.name": "sft", LR: lr, "seed": seed, "model.archive": "embedded"}
        rows.append(run(config, 2.0 - lr, "eval/loss", run_id=f"{number:012x}", index=f"sft/{number}", stage="sft"))
        for beta in (0.1, 0.3):
            config = {
                "loss.name": "dpo",
                LR: 1e-4,
                "seed": seed,
                "loss.beta": beta,
                "model.archive": f"run:{number:012x}",
            }
            rows.append(run(config, 0.5 + beta + 10 * lr + seed / 100 + number / 1e5, stage="dpo"))
    for seed in (0, 1):
        config = {"loss.name": "dpo", LR: 1e-4, "seed": seed, "loss.beta": 0.1, "model.archive": "embedded"}
        rows.append(run(config, 0.55 + seed / 90, stage="scratch"))
    rows.sort(key=lambda row: ["sft", "dpo", "scratch"].index(row.fixed["stage"]))
    return frame(*rows, sweep="pipeline/1")


def test_a_pipeline_is_judged_by_its_ends_over_the_seeds_of_the_whole() -> None:
    found = answer(_pipeline())
    assert found.stages == ("dpo", "scratch")
    assert found.by == ("stage", "model.archive", "loss.beta")
    assert [(item.label, item.n) for item in found.settings] == [
        ("stage=dpo, archive=sft (lr=0.003), beta=0.3", 2),
        ("stage=dpo, archive=sft (lr=0.001), beta=0.3", 2),
        ("stage=dpo, archive=sft (lr=0.003), beta=0.1", 2),
        ("stage=dpo, archive=sft (lr=0.001), beta=0.1", 2),
        ("stage=scratch, archive=embedded, beta=0.1", 2),
    ]
    assert found.shares is not None
    assert list(found.shares.of_factor) == ["stage", "model.archive", "loss.beta", "seed"]


def test_one_stage_of_a_pipeline() -> None:
    found = answer(_pipeline(), stage="sft")
    assert (found.metric, found.stages, found.by) == ("eval/loss", ("sft",), (LR,))
    assert [item.label for item in found.settings] == ["lr=0.003", "lr=0.001"]
    runs = frame(run({"seed": 0}, 0.5, stage="", state=State.COMPLETED), sweep="plain/1")
    assert answer(runs).stages == ()
