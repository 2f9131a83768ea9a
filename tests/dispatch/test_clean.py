"""`gptopt clean`: checkpoints of complete runs go, but of the best, of those that work and of those that are needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gpt_opt.cli import main
from gpt_opt.dispatch.clean import Metric, inspect, metrics_of, remove
from gpt_opt.errors import ConfigError, GptOptError
from gpt_opt.records.choices import record_choice
from gpt_opt.records.claim import acquire
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.planned_configs import text_of
from gpt_opt.records.run_dir import FINAL, RunPaths
from gpt_opt.records.state import State
from gpt_opt.records.sweep_dir import Sweep, SweepRun
from tests.dispatch.on_disk import make_sweep, write_run
from tests.dispatch.test_stages import BEST_OF, SFT_DPO, complete, make

LOSS = [Metric("eval/loss", False)]


def saved(run: SweepRun, loss: float | None = 1.0) -> RunPaths:
    """Writes a run as COMPLETED, with a checkpoint of 100 bytes and what else a run leaves."""
    paths = write_run(run, State.COMPLETED, 100, rows=[{"step": 100, "loss": 1.0}])
    metrics = {} if loss is None else {"eval/loss": loss}
    write_text(paths.summary, to_json({"run_id": run.run_id, "attempt": 1, "step": 100, "metrics": metrics}))
    checkpoint(paths)
    return paths


def checkpoint(paths: RunPaths) -> None:
    folder = paths.checkpoints / "checkpoint-100"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    (paths.checkpoints / FINAL).symlink_to("checkpoint-100")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(sweep: Sweep, number: int = 1, metrics: Sequence[Metric] = LOSS) -> dict[str, str]:
    return {item.run.name: item.kept for item in inspect(sweep, number, metrics)}


def test_the_best_stay_and_results_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(tmp_path, [[f"a={i}"] for i in range(5)])
    paths = [saved(run, loss) for run, loss in zip(sweep.runs, (3.0, 1.0, 2.0, float("nan"), None), strict=True)]
    before = [files(item.root) for item in paths]
    assert kept(sweep, 2) == {"0": "", "1": "best 1", "2": "best 2", "3": "", "4": "has no eval/loss"}
    assert kept(sweep, 0) == {"0": "", "1": "", "2": "", "3": "", "4": "has no eval/loss"}
    assert kept(sweep, 1, [Metric("eval/loss", True)])["0"] == "best 1"
    monkeypatch.chdir(tmp_path)
    assert main(["clean", "beta", "--keep-best", "2", "--yes"]) == 0
    for number, item in enumerate(paths):
        after = files(item.root)
        lost = before[number].keys() - after.keys()
        assert lost == ({"checkpoints/checkpoint-100/model.safetensors"} if number in (0, 3) else set())
        left = {name: text for name, text in after.items() if not name.startswith("claims/")}
        assert left == {name: text for name, text in before[number].items() if name in left}
    assert kept(sweep, 2) == {"1": "best 1", "2": "best 2", "4": "has no eval/loss"}


def test_without_a_yes_it_shows_what_it_would_remove_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_sweep(tmp_path, [["a=0"], ["a=1"]])
    for run, loss in zip(sweep.runs, (3.0, 1.0), strict=True):
        saved(run, loss)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    assert main(["clean", "beta", "--keep-best", "1"]) == 1
    out, error = capsys.readouterr()
    assert "add --yes" in error
    assert "to be removed: 100 B; kept: 100 B; the best by eval/loss (less is better)" in out
    assert [line.split()[-2:] for line in out.splitlines()[1:3]] == [["be", "removed"], ["best", "1"]]
    assert files(tmp_path) == before


def test_what_is_not_complete_keeps_its_checkpoints(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [[f"a={i}"] for i in range(4)])
    for run, state in zip(sweep.runs, (State.INTERRUPTED, State.FAILED, State.RUNNING, State.COMPLETED), strict=True):
        checkpoint(write_run(run, state, 50))
    with acquire(sweep.runs[2].paths()):
        found = kept(sweep, 0)
    goes_on = "goes on from them"
    assert found["0"] == f"is INTERRUPTED: {goes_on}"
    assert found["1"] == f"is FAILED: {goes_on}"
    assert found["2"] == "is RUNNING"


def test_a_run_that_began_to_work_meanwhile_is_left_alone(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["a=0"], ["a=1"]])
    paths = [saved(run) for run in sweep.runs]
    found = inspect(sweep, 0, LOSS)
    with acquire(paths[0]):
        gone, left = remove(sweep, found, 0, LOSS)
    assert [item.run.name for item in gone] == ["1"]
    assert len(left) == 1
    assert left[0].startswith("0: ")
    assert "is being worked on" in left[0]
    assert (paths[0].checkpoints / "checkpoint-100").is_dir()
    assert not paths[1].checkpoints.exists()


def test_what_a_stage_starts_from_stays(tmp_path: Path) -> None:
    sweep = make(tmp_path, *SFT_DPO)
    for run in sweep.runs:
        saved(run)
    found = kept(sweep, 0)
    assert found["sft/0"] == "dpo/0 starts from it"
    assert found["sft/1"] == "dpo/3 starts from it"
    assert {found[f"dpo/{index}"] for index in range(6)} == {""}


def test_candidates_stay_until_one_of_them_is_chosen(tmp_path: Path) -> None:
    sweep = make(tmp_path, *BEST_OF)
    for name in ("sft/0", "sft/1"):
        saved(sweep.run(name), {"sft/0": 1.0, "sft/1": 2.0}[name])
    assert kept(sweep, 0) == {"sft/0": "dpo/0 starts from it", "sft/1": "dpo/0 starts from it"}
    record_choice(sweep.choices, sweep.run("dpo/0").choice, 0, "eval/loss", 1.0)
    assert kept(sweep, 0) == {"sft/0": "dpo/0 starts from it", "sft/1": ""}


def test_what_another_sweep_or_a_run_by_hand_starts_from_stays(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["a=0"], ["a=1"], ["a=2"]])
    paths = [saved(run) for run in sweep.runs]
    beside(sweep, {"archive": f"run:{sweep.runs[0].run_id}/checkpoint-100"})
    by_hand = paths[0].root.with_name("by-hand-aaaaaaaaaaaa")
    by_hand.mkdir()
    (by_hand / "config.json").write_text(json.dumps({"model": {"archive": f"run:{sweep.runs[1].run_id}"}}))
    assert kept(sweep, 0) == {
        "0": "other/1 0 starts from it",
        "1": "by-hand-aaaaaaaaaaaa starts from it",
        "2": "",
    }


def test_each_stage_has_its_own_best(tmp_path: Path) -> None:
    sweep = make(tmp_path, {**SFT_DPO[0]}, {"name": "dpo", "from": None, "grid": {"+b": [1, 2, 3]}})
    for run in sweep.runs:
        complete(run, {"sft": 5.0, "dpo": 1.0}[run.stage] + run.number)
        checkpoint(run.paths())
    assert {name for name, why in kept(sweep, 1).items() if why} == {"sft/0", "dpo/0"}


def test_a_stage_without_the_metric_is_ranked_by_its_loss(tmp_path: Path) -> None:
    sweep = make(tmp_path, {**SFT_DPO[0]}, {"name": "dpo", "from": None, "grid": {"+b": [1, 2, 3]}})
    for run in sweep.runs:
        saved(run, 5.0 - run.number)
        if run.stage == "dpo":
            metrics = {"eval/loss": 5.0 - run.number, "eval/rewards/accuracies": 0.5 - run.number}
            write_text(run.paths().summary, to_json({"run_id": run.run_id, "step": 100, "metrics": metrics}))
    found = inspect(sweep, 1, metrics_of(sweep, None))
    assert {item.run.name for item in found if item.kept} == {"sft/1", "dpo/0"}
    assert {item.run.stage: item.rank.metric for item in found if item.rank is not None} == {
        "sft": "eval/loss",
        "dpo": "eval/rewards/accuracies",
    }


def test_the_metric_is_the_asked_one_else_the_sweeps_else_the_usual_ones(tmp_path: Path) -> None:
    own = make_sweep(tmp_path, [["a=0"]], metric={"name": "accuracy of mine", "goal": "maximize"})
    assert metrics_of(own, None)[0] == Metric("accuracy of mine", True)
    assert metrics_of(own, "eval/kl")[0] == Metric("eval/kl", False)
    with pytest.raises(ConfigError, match=r"'speed of mine'.*\n.*take one of eval/loss"):
        metrics_of(own, "speed of mine")
    plain = make_sweep(tmp_path / "plain", [["a=0"]])
    usual = [Metric("eval/rewards/accuracies", True), Metric("eval/loss", False), Metric("loss", False)]
    assert metrics_of(plain, None) == usual


def beside(sweep: Sweep, config: dict[str, object] | None, *overrides: str) -> Sweep:
    """Makes another sweep of one run in the folder of sweeps, with its planned config."""
    other = make_sweep(sweep.root.parents[2] / "elsewhere", [list(overrides)])
    other.write_plan([replace(other.runs[0], run_id="f" * 12)])
    if config is not None:
        other.planned_configs.write_text(text_of([(other.runs[0].run_id, [(("model",), (config,))])]))
    other.root.parent.rename(sweep.root.parents[1] / "other")
    return Sweep(sweep.root.parents[1] / "other" / "1")


def test_what_another_sweep_names_by_its_path_or_in_its_overrides_stays(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["a=0"], ["a=1"]])
    paths = [saved(run) for run in sweep.runs]
    beside(sweep, {"archive": f"{paths[0].root}/checkpoints/final"}, f"model.archive=run:{sweep.runs[1].run_id}")
    assert kept(sweep, 0) == {"0": "other/1 0 starts from it", "1": "other/1 0 starts from it"}


@pytest.mark.parametrize("file", ["submission.json", "plan.jsonl", "planned_configs.jsonl"])
def test_where_another_sweep_cannot_be_read_nothing_is_removed(tmp_path: Path, file: str) -> None:
    sweep = make_sweep(tmp_path, [["a=0"]])
    saved(sweep.runs[0])
    damaged = beside(sweep, {"archive": f"run:{sweep.runs[0].run_id}"}).root / file
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(GptOptError, match=rf"{file}.*\n?.*"):
        kept(sweep, 0)


def test_a_sweep_of_a_version_before_is_known_by_its_overrides(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["a=0"], ["a=1"]])
    for run in sweep.runs:
        saved(run)
    beside(sweep, None, f"model.archive=run:{sweep.runs[0].run_id}/checkpoint-100")
    assert kept(sweep, 0) == {"0": "other/1 0 starts from it", "1": ""}


def test_a_link_stays_and_one_failure_does_not_end_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_sweep(tmp_path, [[f"a={i}"] for i in range(3)])
    paths = [saved(run) for run in sweep.runs]
    paths[0].checkpoints.rename(tmp_path / "scratch")
    paths[0].checkpoints.symlink_to(tmp_path / "scratch")
    paths[1].claims.write_text("no folder, so that it cannot be claimed")
    monkeypatch.chdir(tmp_path)
    assert main(["clean", "beta", "--keep-best", "0", "--yes"]) == 1
    out, error = capsys.readouterr()
    assert "removed 100 B of 1 run;" in out
    assert "not removed:\n  1: " in error
    assert (tmp_path / "scratch" / "checkpoint-100").is_dir()
    assert [item.checkpoints.exists() for item in paths] == [True, True, False]


def test_checkpoints_of_an_application_are_those_that_it_names(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [["a=0"], ["a=1"]])
    program = replace(sweep.submission().program, folder="app-code", checkpoints="ckpts/*")
    record = json.loads(sweep.submission_file.read_text())
    sweep.submission_file.write_text(json.dumps({**record, "program": asdict(program)}))
    for run, loss in zip(sweep.runs, (3.0, 1.0), strict=True):
        paths = saved(run, loss)
        (paths.root / "ckpts").mkdir()
        (paths.root / "ckpts" / "1.pt").write_bytes(b"x" * 10)
        (paths.root / "ckpts" / "last.pt").symlink_to("1.pt")
    found = inspect(Sweep(sweep.root), 1, LOSS)
    assert [(item.kept, len(item.checkpoints)) for item in found] == [("", 2), ("best 1", 2)]
    gone, left = remove(Sweep(sweep.root), found, 1, LOSS)
    assert (len(gone), left) == (1, [])
    assert [sorted(path.name for path in (item.paths.root / "ckpts").iterdir()) for item in found] == [
        [],
        ["1.pt", "last.pt"],
    ]
    assert found[0].paths.checkpoints.is_dir(), "not what it names"
