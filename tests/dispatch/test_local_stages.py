"""Stages on this machine, with real runs: what is shared is run once, and another winner is the user's to take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import gpt_opt
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.records.provenance import recorded_inputs
from gpt_opt.records.run_dir import find_run_dirs
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Sweep
from tests.cluster.bench import Bench

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path: Path, run_forks: Mapping[str, str]) -> Bench:
    return Bench(tmp_path, None, run_forks)


def write(bench: Bench, *stages: dict[str, Any], **more: Any) -> None:
    file = bench.write([70], steps=4)
    spec = json.loads(file.read_text())
    del spec["grid"], spec["base"]["loss.beta"]
    file.write_text(json.dumps({**spec, "stages": list(stages), **more}))


def drive(bench: Bench, expect: int = 0) -> str:
    return bench.call("gptopt", "submit", "sweep.json", "--backend", "local", "--slots", "2", "--wait", expect=expect)


def sft(rates: Sequence[float]) -> dict[str, Any]:
    return {"name": "sft", "base": {"loss": "sft"}, "grid": {"optimizer.optimizer_params.lr": list(rates)}}


def dpo(betas: Sequence[float], **more: Any) -> dict[str, Any]:
    return {"name": "dpo", "base": {"loss": "dpo"}, "grid": {"loss.beta": list(betas)}, **more}


def runs(bench: Bench) -> set[str]:
    return {path.name.rpartition("-")[2] for path in find_run_dirs(bench.folder / "outputs")}


def states(sweep: Sweep) -> dict[str, State]:
    return {run.name: item.state for run, item in classify_runs(sweep).items.items()}


def test_a_late_stage_does_not_pay_for_the_early_ones_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    write(bench, sft([0.001, 0.002]), dpo([0.1, 0.3]))
    assert "all 6 runs are done" in drive(bench)
    first = runs(bench)
    assert len(first) == 2 + 4
    sweep = bench.sweep()
    child, parent = sweep.run("dpo/2"), sweep.run("sft/1")
    started = recorded_inputs(child.paths())["model.archive"]
    assert (started["run_id"], started["attempt"]) == (parent.run_id, "1")
    monkeypatch.chdir(bench.folder)
    handle = gpt_opt.sweep("sweep.json")
    assert handle.status().all_done
    frame = handle.runs().set_index("name")
    assert list(frame["parent"][["sft/0", "dpo/0", "dpo/3"]].fillna("")) == ["", "sft/0", "sft/1"]
    assert list(frame.loc["dpo/3", ["stage", "state", "loss.beta"]]) == ["dpo", "COMPLETED", 0.3]
    assert frame["eval/loss"].notna().all()

    write(bench, sft([0.001, 0.002]), dpo([0.1, 0.3, 0.5]))
    assert "all 8 runs are done" in drive(bench)
    second = runs(bench)
    assert len(second - first) == 2, "another beta leaves the others as they are"

    write(bench, sft([0.001, 0.004]), dpo([0.1, 0.3, 0.5]))
    assert "8 runs in 2 stages" in bench.gptopt("plan", "sweep.json")
    assert "all 8 runs are done" in drive(bench)
    assert len(runs(bench) - second) == 1 + 3, "another rate makes anew what hangs below it, and nothing else"
    assert {tuple(bench.starts())} == {(0, 1, 0, 0, 0, 1, 1, 1)}


def test_a_retry_that_changes_the_winner(bench: Bench) -> None:
    axes = {"data.dataset.max_samples": [70, 73], "optimizer.optimizer_params.lr": [1e-9, 0.01]}
    best = {"best": "eval/loss", "goal": "minimize"}
    write(bench, {"name": "sft", "base": {"loss": "sft"}, "zip": axes}, dpo([0.1, 0.3], **{"from": best}))
    (bench.folder / "break-73").touch()
    drive(bench, expect=1)
    sweep = bench.sweep()
    assert states(sweep) == {"sft/0": "COMPLETED", "sft/1": "FAILED", "dpo/0": "COMPLETED", "dpo/1": "COMPLETED"}
    assert sweep.chosen() == {"dpo": 0}
    (bench.folder / "break-73").unlink()
    bench.gptopt("retry", "sweep", "sft/1")
    bench.wait("sft/1", lambda: states(sweep)["sft/1"] is State.COMPLETED)
    told = " ".join(bench.gptopt("status", expect=1).split())
    assert "sft/1 is better now: gptopt retry sweep/1 --state STALE starts from that" in told
    assert states(sweep)["dpo/0"] is states(sweep)["dpo/1"] is State.STALE
    bench.gptopt("retry", "sweep", "--state", "STALE")
    bench.wait("the end", lambda: len(classify_runs(sweep).done) == 4)
    assert sweep.chosen() == {"dpo": 1}
    assert recorded_inputs(sweep.run("dpo/0").paths())["model.archive"]["run_id"] == sweep.run("sft/1").run_id
    assert len(runs(bench)) == 2 + 2 + 2

    target = sweep.run("sft/1").paths().root
    overrides = [*sweep.run("sft/1").overrides, "rerun=true"]
    bench.call("python", str(Path(__file__).parents[2] / "run_hydra.py"), *overrides)
    assert (target / "superseded").is_dir()
    assert {states(sweep)[name] for name in ("dpo/0", "dpo/1")} == {State.STALE}, "its result is another one"
    bench.gptopt("retry", "sweep", "dpo/1")
    bench.wait("dpo/1 anew", lambda: states(sweep)["dpo/1"] is State.COMPLETED)
    assert recorded_inputs(sweep.run("dpo/1").paths())["model.archive"]["attempt"] == "3"
    assert states(sweep)["dpo/0"] is State.STALE
