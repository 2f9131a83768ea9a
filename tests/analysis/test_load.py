"""load_runs and load_metrics on runs as they should be, finished and unfinished."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import load_metrics, load_runs
from analysis.curves import METRIC_COLUMNS
from analysis.files import flatten
from analysis.load import RunsNotFound
from analysis.run_table import RUN_COLUMNS
from gpt_opt.errors import GptOptError
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State

MakeRun = Callable[..., RunPaths]


def test_a_row_a_run_with_config_metrics_state_and_times(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run({"loss.beta": 0.05})
    runs = load_runs(outputs)
    assert len(runs) == 1
    row = runs.iloc[0]
    assert row["run_id"] == "000000000000"
    assert (row["state"], row["step"], row["total_steps"], row["attempt"]) == ("COMPLETED", 200, 200, 1)
    assert row["loss.beta"] == 0.05
    assert row["model.config.n_embd"] == 128
    assert row["loss"] == 0.4523
    assert row["eval/rewards/accuracies"] == 0.781
    assert (row["time_s"], row["tokens"], row["peak_memory_mb"]) == (61.25, 512000, 812.5)
    assert row["started"] == pd.Timestamp("2025-11-20T23:50:00.123", tz="UTC")
    assert row["path"] == str(paths.root)
    assert pd.isna(row["error"])
    assert runs.attrs["problems"] == []


def test_columns_have_the_narrowest_type_that_fits(make_run: MakeRun, outputs: Path) -> None:
    make_run({"seed": 1, "loss.beta": 1, "data.dataset.max_samples": 5, "loss.flag": True, "model.mixed": "auto"})
    make_run({"seed": 2, "loss.beta": 0.5, "model.mixed": 4})
    runs = load_runs(outputs)
    expected = {
        **RUN_COLUMNS,
        "seed": "int64",
        "loss.beta": "float64",
        "data.dataset.max_samples": "Int64",
        "loss.reference_free": "bool",
        "loss.flag": "boolean",
        "model.name": "category",
        "model.mixed": "object",
        "exp_name": "object",
        "eval/loss": "float64",
    }
    assert {name: str(runs[name].dtype) for name in expected} == expected


def test_what_varies_comes_first_and_what_does_not_last(make_run: MakeRun, outputs: Path) -> None:
    make_run({"seed": 1, "paths.output_dir": "a"})
    make_run({"seed": 2, "paths.output_dir": "b", "loss.beta": 0.5})
    runs = load_runs(outputs)
    names = list(runs.columns)
    first = ["run_id", "state", "loss.beta", "seed", "paths.output_dir", "loss", "eval/loss"]
    assert names[: len(first)] == first
    rest = [name for name in RUN_COLUMNS if name not in first]
    assert names.index("eval/kl") < names.index(rest[0])
    assert names[names.index(rest[0]) :][: len(rest)] == rest
    assert names[names.index("reason") + 1 :] == list(runs.attrs["constant"])
    assert runs.attrs["varying"] == ["loss.beta", "seed"]
    assert runs.attrs["constant"]["optimizer.optimizer_params.betas"] == [0.9, 0.999]
    assert runs.attrs["sweep"] is None


def test_lists_are_kept_as_lists(make_run: MakeRun, outputs: Path) -> None:
    make_run()
    make_run({"optimizer.optimizer_params.betas": [0.9, 0.95]})
    runs = load_runs(outputs)
    assert runs["optimizer.optimizer_params.betas"].tolist() == [[0.9, 0.999], [0.9, 0.95]]
    assert runs.attrs["varying"] == ["optimizer.optimizer_params.betas"]


def test_integers_beyond_64_bits_are_kept_exactly(make_run: MakeRun, outputs: Path) -> None:
    make_run({"seed": 2**70 + 1})
    assert load_runs(outputs)["seed"].tolist() == [2**70 + 1]


def test_nan_and_infinite_final_metrics_are_kept_and_reported(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run(final={"loss": math.nan, "eval/loss": math.inf, "grad_norm": -math.inf, "kl": 1})
    runs = load_runs(outputs)
    assert math.isnan(runs["loss"][0])
    assert (runs["eval/loss"][0], runs["grad_norm"][0], runs["kl"][0]) == (math.inf, -math.inf, 1.0)
    assert runs.attrs["problems"] == [f"{paths.root}: the run diverged: loss=nan, eval/loss=inf, grad_norm=-inf"]


def test_a_run_without_a_summary_has_its_latest_metrics(make_run: MakeRun, outputs: Path) -> None:
    rows = [{"step": 10, "loss": 0.9, "eval/loss": 0.8}, {"step": 30, "loss": 0.5}, {"step": 20, "loss": 0.7}]
    make_run(state=State.INTERRUPTED, final=None, rows=rows, step=30)
    runs = load_runs(outputs)
    assert (runs["loss"][0], runs["eval/loss"][0], runs["step"][0]) == (0.5, 0.8, 30)
    assert runs["time_s"].isna().all()
    assert runs.attrs["problems"] == []


def test_a_metric_logged_as_null_does_not_hide_an_earlier_value(make_run: MakeRun, outputs: Path) -> None:
    make_run(state=State.FAILED, final=None, rows=[{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}])
    assert load_runs(outputs)["loss"].tolist() == [0.5]


def test_a_name_that_appears_twice_keeps_its_first_meaning(make_run: MakeRun, outputs: Path) -> None:
    make_run({"kl": 9, "state": "mine", "step": 9}, final={"kl": 0.5, "step": 7.0})
    runs = load_runs(outputs)
    assert runs[["state", "step", "kl"]].iloc[0].tolist() == ["COMPLETED", 200, 0.5]


def test_a_running_run_whose_owner_left_no_claim_is_interrupted(make_run: MakeRun, outputs: Path) -> None:
    make_run(state=State.RUNNING, final=None)
    assert load_runs(outputs)["state"].tolist() == ["INTERRUPTED"]


def test_the_error_of_a_failed_run_is_one_short_line(make_run: MakeRun, outputs: Path) -> None:
    error = {"type": "ValueError", "message": "first\nsecond " + "x" * 300, "traceback": "Traceback ..."}
    make_run(state=State.FAILED, final=None, error=error)
    (text,) = load_runs(outputs)["error"]
    assert text.startswith("ValueError: first second x")
    assert text.endswith("…")
    assert len(text) == 200


def test_one_run_a_folder_or_several_of_either(make_run: MakeRun, outputs: Path) -> None:
    first, second, third = make_run(), make_run(), make_run()
    assert load_runs(str(first.root))["path"].tolist() == [str(first.root)]
    assert len(load_runs(outputs)) == 3
    several = load_runs([third.root, first.root, third.root])
    assert several["path"].tolist() == [str(first.root), str(third.root)]
    assert len(load_runs([outputs, second.root])) == 3
    assert load_metrics([second.root])["path"].unique().tolist() == [str(second.root)]


def test_results_put_aside_by_a_rerun_are_not_runs(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run()
    old = paths.superseded / "before-attempt-0002"
    old.mkdir(parents=True)
    (old / "state.json").write_text(paths.state.read_text())
    assert len(load_runs(outputs)) == 1


def test_an_empty_folder_gives_the_fixed_columns(outputs: Path) -> None:
    runs, metrics = load_runs(outputs), load_metrics(outputs)
    assert {str(name): str(dtype) for name, dtype in runs.dtypes.items()} == dict(RUN_COLUMNS)
    assert {name: str(dtype) for name, dtype in metrics.dtypes.items()} == dict(METRIC_COLUMNS)
    assert len(runs) == len(metrics) == 0
    assert runs.attrs["problems"] == metrics.attrs["problems"] == []


@pytest.mark.parametrize("load", [load_runs, load_metrics])
def test_paths_that_are_no_directories_are_all_named(load: Callable[..., pd.DataFrame], outputs: Path) -> None:
    file = outputs / "file.txt"
    file.write_text("")
    with pytest.raises(RunsNotFound, match=r"no directory .*nowhere, .*file\.txt") as caught:
        load([outputs, outputs / "nowhere", file])
    assert isinstance(caught.value, GptOptError)


def test_training_and_evaluation_of_a_step_are_one_row(make_run: MakeRun, outputs: Path) -> None:
    paths = make_run()
    metrics = load_metrics(outputs)
    assert metrics["step"].tolist() == [10, 20]
    assert metrics["loss"].tolist() == [0.59, 0.58]
    assert metrics["eval/loss"].tolist() == [0.6, 0.6]
    assert metrics["time"][0] == pd.Timestamp(1_760_000_011, unit="s", tz="UTC")
    assert metrics["path"].unique().tolist() == [str(paths.root)]
    assert metrics["run_id"].unique().tolist() == ["000000000000"]


def test_steps_that_a_resumed_run_wrote_again_count_once(make_run: MakeRun, outputs: Path) -> None:
    rows = [{"step": step, "loss": loss} for step, loss in [(10, 1.0), (20, 2.0), (30, 3.0), (20, 2.5), (30, 3.5)]]
    make_run(rows=rows)
    metrics = load_metrics(outputs)
    assert metrics[["step", "loss"]].to_numpy().tolist() == [[10, 1.0], [20, 2.5], [30, 3.5]]


def test_metrics_keep_nan_and_infinity_and_take_whole_numbers(make_run: MakeRun, outputs: Path) -> None:
    rows = [{"step": 1, "loss": math.nan, "kl": 1}, {"step": 2, "loss": math.inf, "kl": None}, {"step": 3, "loss": 7}]
    make_run(rows=rows)
    metrics = load_metrics(outputs)
    assert math.isnan(metrics["loss"][0])
    assert metrics["loss"].tolist()[1:] == [math.inf, 7.0]
    assert metrics["kl"].dtype == "float64"
    assert metrics["kl"].isna().tolist() == [False, True, True]


def test_a_number_too_large_for_a_float_is_infinite(make_run: MakeRun, outputs: Path) -> None:
    make_run(rows=[{"step": 1, "loss": 10**400}, {"step": 2, "loss": -(10**400)}])
    assert load_metrics(outputs)["loss"].tolist() == [math.inf, -math.inf]


def test_a_time_that_is_no_time_is_missing(make_run: MakeRun, outputs: Path) -> None:
    make_run(rows=[{"step": 1, "time": 1e300}, {"step": 2, "time": math.inf}, {"step": 3, "time": None}, {"step": 4}])
    assert load_metrics(outputs)["time"].isna().all()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
KEYS = st.text(st.characters(exclude_characters=".", codec="utf-8"), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.dictionaries(KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3))))
def test_flat_keys_lead_to_every_leaf(config: dict[str, object]) -> None:
    flat = dict(flatten(config))
    rebuilt: dict[str, object] = {}
    for key, value in flat.items():
        *groups, last = key.split(".")
        node = rebuilt
        for group in groups:
            node = node.setdefault(group, {})  # type: ignore[assignment]
        node[last] = value
    assert json.dumps(rebuilt) == json.dumps(config)


def test_reading_runs_imports_neither_torch_nor_hydra() -> None:
    code = "import sys, analysis.summarize, analysis.plots; print({'torch', 'hydra', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
