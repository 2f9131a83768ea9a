"""The report of a sweep: curves, costs, the text of the page, the verb."""

from __future__ import annotations

import json
import math
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import load_metrics, load_runs
from analysis.answers import answer
from analysis.files import flatten
from analysis.report import Source, page
from analysis.report.costs import Cost, cost_in_sweep, total
from analysis.report.curves import pack_all, packed, points_each, thinned
from analysis.report.markup import Html, joined, tag
from analysis.report.origin import origin_of
from analysis.report.runs import ReportedRun
from analysis.run_table import RUN_COLUMNS
from gpt_opt.cli import main
from gpt_opt.dispatch.sweep_status import gather
from gpt_opt.records.attempts import note_end
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Shape, Sweep
from tests.analysis.conftest import MakeRun
from tests.analysis.sweeps import BEGIN, begun, nested, submitted
from tests.dispatch.on_disk import held
from tests.helpers.examples import examples

POINTS = [{"loss.beta": beta, "seed": seed} for beta in (0.05, 0.1, 0.3) for seed in (0, 1)]


def document(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    record: dict[str, Any] = json.loads(found[1])
    return record


def unpacked(curve: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Returns a curve as the script of the page reads it."""
    steps = np.cumsum(np.array(curve["s"]) * curve["u"])
    return steps.tolist(), [value / 10.0 ** curve["d"] for value in curve["v"]]


# -- curves -----------------------------------------------------------------------------------------------------------

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(VALUES, st.integers(8, 60))
@settings(max_examples=examples(60))
def test_a_thinned_curve_keeps_its_ends_and_extremes(values: list[float], most: int) -> None:
    steps, given_values = np.arange(len(values)) * 5, np.array(values)
    kept, shown = thinned((steps, given_values), most)
    assert len(kept) <= most
    assert (kept[0], kept[-1]) == (steps[0], steps[-1])
    assert (shown.min(), shown.max()) == (given_values.min(), given_values.max())
    assert all(np.diff(kept) > 0)
    assert (given_values[kept // 5] == shown).all()


@given(VALUES)
@settings(max_examples=examples(60))
def test_a_packed_curve_has_its_steps_and_four_digits_of_its_values(values: list[float]) -> None:
    steps = np.cumsum(np.arange(1, len(values) + 1))
    found, shown = unpacked(json.loads(json.dumps(packed((steps, np.array(values))))))
    assert found == steps.tolist()
    usual = float(np.sort(np.abs(values))[len(values) // 2]) or 0.2
    assert np.allclose(shown, values, rtol=1e-9, atol=max(0.51e-3 * usual, 1e-300))


def test_curves_share_a_budget_and_those_that_are_compared_get_more_of_it() -> None:
    assert points_each([(1000, True), (1000, False)], budget=400) == 100
    assert points_each([(50, True), (20, False)], budget=400) == 400  # all there is
    assert points_each([(1000, True)] * 1000, budget=400) == 8


def test_curves_come_with_time_and_leave_out_what_is_not_finite() -> None:
    times = pd.to_datetime([0, 60, 120, 180], unit="s", utc=True).astype("datetime64[us, UTC]")
    rows = {"path": ["a", "a", "a", "b"], "step": [0, 10, 20, 0], "time": times, "loss": [3.0, math.nan, math.inf, 2.0]}
    first, none, second = pack_all(pd.DataFrame(rows), ["a", None, "b"], ["loss", "kl"], ["loss"])
    assert unpacked(first["loss"]) == ([0], [3.0])
    assert unpacked(first["time"]) == ([0, 10, 20], [0.0, 60.0, 120.0])
    assert none == {}
    assert list(second) == ["loss", "time"]


# -- costs ------------------------------------------------------------------------------------------------------------


def test_costs_are_those_of_attempts_times_their_gpus(tmp_path: Path) -> None:
    sweep = submitted(tmp_path, POINTS[:4])
    shape = Shape({"gpus_per_run": 2, "nodes_per_run": None}, 1)
    paths = [
        begun(sweep, 0, POINTS[0], gpus=["0", "1"], minutes=30),
        begun(sweep, 1, POINTS[1], State.FAILED, minutes=6, cause="exception", error={"type": "E", "message": "m"}),
        begun(sweep, 2, POINTS[2], State.INTERRUPTED, minutes=12, cause=None, gpus=["0"]),  # lost with its slot
    ]
    costs = [cost_in_sweep(sweep, run, RunPaths(Path(run.run_dir)), shape) for run in sweep.runs]
    assert [(item.seconds, item.gpu_seconds, item.attempts) for item in costs] == [
        (1800, 3600, 1),
        (360, 0, 1),
        (720, 720, 1),  # until the last sign of life
        (0, 0, 0),
    ]
    for resources, gpu_s in (({"nodes_per_run": 2}, 7200), ({"runs_per_gpu": 4}, 900)):
        assert cost_in_sweep(sweep, sweep.runs[0], paths[0], Shape(resources, 1)).gpu_seconds == gpu_s
    whole = total(costs)
    assert (whole.begin, whole.end) == (BEGIN.timestamp(), BEGIN.timestamp() + 1800)
    assert (whole.seconds, whole.gpu_seconds, whole.attempts) == (2880, 4320, 3)
    assert paths[0].summary.exists()


# -- the page ---------------------------------------------------------------------------------------------------------


def test_what_is_not_html_is_escaped() -> None:
    assert (
        tag("b", "<i>", tag("u", 1), None, class_='a"b', data_run=3)
        == '<b class="a&quot;b" data-run="3">&lt;i&gt;<u>1</u></b>'
    )
    assert joined("&", Html("&amp;")) == "&amp;&amp;"


def report(*arguments: object) -> int:
    return main(["report", *map(str, arguments)])


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of six runs: four are done, one failed, one waits; its folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    made = submitted(tmp_path, POINTS)
    for index in range(4):
        begun(made, index, POINTS[index])
    error = {"type": "ValueError", "message": f"{tmp_path}/data is empty", "traceback": f'File "{tmp_path}/a.py"'}
    begun(made, 4, POINTS[4], State.FAILED, 60, cause="exception", error=error)
    return made


def test_a_sweep_is_reported_beside_it_with_all_that_was_planned(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("beta") == 0
    file = sweep.root / "report.html"
    assert capsys.readouterr().out == f"{file}: 4 of 6 done, 1 waiting, 1 failed, nothing works on it\n"
    text = file.read_text()
    record = document(text)
    assert [run["state"] for run in record["runs"]] == ["COMPLETED"] * 4 + ["FAILED", "PENDING"]
    assert [run["values"] for run in record["runs"]] == [list(point.values()) for point in POINTS]
    assert record["keys"][0] == {"key": "loss.beta", "name": "beta", "numeric": True, "log": True}
    assert record["metric"] == "eval/rewards/accuracies"
    assert record["best"] in (2, 3)  # beta = 0.1
    assert record["runs"][0]["command"] == "python run_hydra.py loss.beta=0.05 seed=0"
    assert {"loss", "eval/loss", "time"} <= set(record["runs"][0]["curves"])
    assert record["runs"][5]["curves"] == {}
    assert record["constant"]["optimizer.optimizer_params.betas"] == "[0.9, 0.999]"
    assert "<dd>4 of 6<small>1 FAILED, 1 PENDING</small></dd>" in text
    assert "gptopt submit params/beta.json seed=0 --backend local" in text
    assert "git checkout 0123456789abcdef0123456789abcdef01234567" in text
    assert "0: no attempt had a GPU" in text
    ratio = gather(sweep).efficiency.ratio
    assert ratio is not None
    assert f"<dt>sweep efficiency</dt><dd>{ratio:.2f}<small>training time over slot time</small></dd>" in text
    assert str(tmp_path) not in text  # paths are relative to the folder of the sweep
    assert record["runs"][4]["message"] == "ValueError: data is empty"
    sentence = re.search(r'<p id="sentence">(.*?)</p>', text)
    assert sentence is not None
    assert sentence[1].startswith("beta=0.1 has the best eval accuracy, ")


def test_a_folder_of_runs_is_reported_without_a_sweep(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("outputs", "-o", "all.html", "--metric", "eval loss") == 0
    assert capsys.readouterr().out == "all.html: 5 runs, 0 running\n"
    record = document(Path("all.html").read_text())
    assert record["metric"] == "eval/loss"
    assert len(record["runs"]) == 5
    assert "<strong>1 run</strong>" in Path("all.html").read_text()  # failed of that cause


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "gone is no folder, and no sweep in"),
        (["empty"], "no run lies below 'empty'"),
        (["beta", "--metric", "acuracy"], "must be a metric of the runs, but is 'acuracy'"),
        (["beta", "-o", "gone/r.html"], "--output: must be in a folder that exists, but gone does not"),
        (["beta", "-o", "empty"], "--output: must be a file, but empty is a folder"),
        (["beta", "--every", "0"], "must be at least 1, but is 0"),
    ],
)
def test_a_wrong_request_is_refused(
    sweep: Sweep, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert report(*arguments) == 2
    assert said in capsys.readouterr().err
    assert not (sweep.root / "report.html").exists()


def test_a_report_is_written_again_until_the_sweep_is_over(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    begun(sweep, 5, POINTS[5], State.INTERRUPTED, 100, cause=None)
    file, run = sweep.root / "report.html", RunPaths(Path(sweep.runs[5].run_dir))
    watching = threading.Thread(target=report, args=("beta", "--watch", "--every", "1"))
    with held(sweep.driver):
        watching.start()
        while not file.exists():
            watching.join(0.05)
        first = document(file.read_text())
        assert (first["is_over"], first["every_s"], first["runs"][5]["state"]) == (False, 1, "INTERRUPTED")
        note_end(sweep.attempts(sweep.runs[5]), "a0", "cancelled")
        run.summary.write_text(json.dumps({"metrics": {"eval/rewards/accuracies": 0.99}, "time_s": 1.0}))
        run.state.write_text(run.state.read_text().replace("INTERRUPTED", "COMPLETED"))
    watching.join(60)
    assert not watching.is_alive()
    last = document(file.read_text())
    assert (last["is_over"], last["every_s"], last["runs"][5]["state"]) == (True, None, "COMPLETED")
    assert "5 of 6 done, 1 failed, nothing works on it" in capsys.readouterr().out
    assert not list(sweep.root.glob(".report*"))


def test_a_sweep_of_which_nothing_has_begun_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = submitted(tmp_path, POINTS)
    assert report() == 0  # the last one submitted
    text = (made.root / "report.html").read_text()
    assert [run["state"] for run in document(text)["runs"]] == ["PENDING"] * 6
    assert document(text)["runs"][2]["values"] == [0.1, 0]
    assert "no run has a final eval accuracy yet" in text
    assert "continues" in text  # what to do, for nothing works on it


def test_a_broken_run_is_a_row_with_its_reason(sweep: Sweep) -> None:
    RunPaths(Path(sweep.runs[1].run_dir)).config.write_text("{")
    RunPaths(Path(sweep.runs[2].run_dir)).metrics.write_bytes(b"\xff\n")
    assert report("beta", "-o", "report.html") == 0
    record = document(Path("report.html").read_text())
    assert "config.json" in record["runs"][1]["message"]
    assert "loss" not in record["runs"][2]["curves"]


@pytest.mark.parametrize("odd", [[1], 7, "text", None, {"torch": 2}])
def test_provenance_of_another_form_is_not_in_the_way(make_run: MakeRun, odd: object) -> None:
    odd_one, other = make_run({"seed": 0}), make_run({"seed": 1})
    other.provenance.write_text(json.dumps({"git_commit": "abc", "packages": {"torch": "2.8.0"}}))
    names = ("git_commit", "code", "packages", "slurm", "python", "host")
    odd_one.provenance.write_text(json.dumps(dict.fromkeys(names, odd)))
    runs = zip("ab", (odd_one, other), strict=True)
    found = origin_of([ReportedRun(None, name, "", "COMPLETED", run.root, None, Cost()) for name, run in runs])
    assert "abc" in found.commits
    assert {field.name: dict(field.values)["2.8.0"] for field in found.differing} == {"torch": ["b"]}


def test_a_thousand_runs_fit_five_megabytes(tmp_path: Path) -> None:
    """With the 80 config keys, 200 rows and 20 metrics that a real run has."""
    names = [
        "loss",
        *(f"rewards/{n}" for n in ("chosen", "rejected", "accuracies", "margins")),
        "logps/chosen",
        "logps/rejected",
    ]
    names += ["kl", "grad_norm", "learning_rate", "tokens_per_second"]
    names += [f"eval/{name}" for name in names[:8]]
    draw, more = np.random.default_rng(0), {f"data.key{index}": index for index in range(60)}
    points = [
        {"loss.beta": float(f"{beta:.4g}"), "seed": i % 4, **more} for i, beta in enumerate(draw.uniform(0.01, 1, 1000))
    ]
    paths = [str(tmp_path / f"run-{index:012x}") for index in range(1000)]
    config = pd.DataFrame([dict(flatten(nested(point))) for point in points])
    fixed = pd.DataFrame({name: pd.Series([None] * 1000, dtype=dtype) for name, dtype in RUN_COLUMNS.items()})
    fixed = fixed.assign(run_id=[path[-12:] for path in paths], state="COMPLETED", path=paths)
    frame = pd.concat([fixed, config, pd.DataFrame(0.123456, index=fixed.index, columns=names)], axis=1)
    varying = ["loss.beta", "seed"]
    constant = {name: config[name].iat[0] for name in config.columns if name not in varying}
    frame.attrs.update(problems=[], varying=varying, constant=constant, sweep=None)
    metrics = pd.DataFrame(draw.normal(1, 0.3, (200_000, len(names))), columns=names)
    metrics.loc[metrics.index % 10 != 0, [name for name in names if name.startswith("eval/")]] = math.nan
    steps = np.tile(np.arange(200) * 10, 1000)
    times = pd.to_datetime(1.7e9 + 1.37 * steps, unit="s", utc=True).astype("datetime64[us, UTC]")
    head = pd.DataFrame({"path": np.repeat(paths, 200), "step": steps, "time": times})
    curves = pd.concat([head, metrics], axis=1)
    found = page(Source("thousand", frame, curves, tmp_path, answer(frame, "eval/loss"), None, None, [], [], True))
    assert 1_000_000 < len(found.encode()) < 5_000_000
    record = document(found)
    assert len(record["runs"]) == 1000
    assert len(record["runs"][7]["curves"]["loss"]["v"]) > 30


def test_values_that_look_like_markup_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = "</script><img src=x onerror=alert(1)>"
    points = [{"data.dataset.name": evil}, {"data.dataset.name": "<!-- <script>"}]
    made = submitted(tmp_path, points, sweep=evil, file=f"params/{evil}.json")
    for index, point in enumerate(points):
        begun(made, index, point, host=evil)
    assert report("beta", "-o", "report.html") == 0
    text = Path("report.html").read_text()
    assert "<img" not in text
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert document(text)["runs"][0]["values"] == [evil]


def test_a_report_is_made_from_frames_alone(sweep: Sweep) -> None:
    """As a notebook can: without the verb."""
    runs, metrics = load_runs("outputs"), load_metrics("outputs")
    text = page(Source("mine", runs, metrics, Path.cwd(), answer(runs), None, None, [], ["a <note>"], True))
    assert "a &lt;note&gt;" in text
    assert "default-src &#x27;none&#x27;" not in text
    assert "default-src 'none'; script-src 'sha256-" in text
