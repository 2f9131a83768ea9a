"""run_hydra.py as a user calls it: exit codes, skipping, faults, sweeps."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.cli import main
from gpt_opt.records.claim import read_claim
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.state import State, read_state, write_state
from gpt_opt.run import main as run_main
from tests.conftest import ROOT, Runner

CLOCK = ("tokens_per_second", "eval/seconds")


def only_run(tmp_path: Path) -> RunPaths:
    (found,) = find_run_dirs(tmp_path / "outputs")
    return RunPaths(found)


def result(paths: RunPaths) -> dict[str, Any]:
    """The committed result without what depends on the clock."""
    summary = json.loads(paths.summary.read_text())
    metrics = {name: value for name, value in summary["metrics"].items() if name not in CLOCK}
    return {"run_id": summary["run_id"], "step": summary["step"], "metrics": metrics}


def test_the_help_lists_groups_and_the_config(run_hydra: Runner) -> None:
    told = run_hydra(["--help", "loss=sft"])
    assert told.returncode == 0, told.stderr
    assert "\nloss: dpo, hinge," in told.stdout
    assert "\nloss:\n  name: sft\n" in told.stdout


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run_hydra.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(tmp_path: Path, process: subprocess.Popen[str], step: int) -> RunPaths:
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        runs = find_run_dirs(tmp_path / "outputs") if (tmp_path / "outputs").exists() else []
        if runs and RunPaths(runs[0]).state.exists() and read_state(RunPaths(runs[0])).step >= step:
            return RunPaths(runs[0])
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[0]}")


LONG = ["training.training_params.max_steps=200", "training.training_params.save_every=20"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, run_hydra: Runner) -> dict[str, Any]:
    """The result of the 200-step run that nobody disturbs."""
    from tests.conftest import small_overrides

    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_hydra([*small_overrides(folder), *LONG, "loss.beta=0.1"])
    assert done.returncode == 0, done.stdout + done.stderr
    return result(only_run(folder))


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """The data file lies elsewhere, so the ids differ; everything that training made is equal."""
    return {**found, "run_id": ""} == {**expected, "run_id": ""}


@pytest.mark.slow
def test_a_run_killed_with_9_and_started_again_ends_like_an_undisturbed_one(
    tmp_path: Path, small: list[str], run_hydra: Runner, undisturbed: dict[str, Any]
) -> None:
    arguments = [*small, *LONG, "loss.beta=0.1"]
    process = start(arguments)
    paths = wait_for_step(tmp_path, process, 50)
    process.kill()
    process.communicate()
    assert read_state(paths).state is State.INTERRUPTED
    assert not paths.summary.exists()
    (paths.root / ".state.json.host.1.tmp").write_text("{")  # as a kill in the middle of a write leaves it
    done = run_hydra(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(paths.root.glob(".*.tmp"))
    assert "resuming from checkpoint-" in done.stdout
    assert read_state(paths).state is State.COMPLETED
    assert same(result(paths), undisturbed)
    steps = [json.loads(line)["step"] for line in paths.metrics.read_text().splitlines() if "learning_rate" in line]
    assert steps == list(range(2, 201, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_checkpoints_and_the_run_resumes(
    tmp_path: Path, small: list[str], run_hydra: Runner, undisturbed: dict[str, Any], number: signal.Signals
) -> None:
    arguments = [*small, *LONG, "loss.beta=0.1"]
    process = start(arguments)
    paths = wait_for_step(tmp_path, process, 30)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"interrupted by {number.name}" in output
    state = read_state(paths)
    assert state.state is State.INTERRUPTED
    assert (paths.checkpoints / f"checkpoint-{state.step}").is_dir()
    claim = read_claim(paths)
    assert claim is not None
    assert claim.released
    done = run_hydra(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(result(paths), undisturbed)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_of_two_processes_one_trains_and_the_other_says_who(
    tmp_path: Path, small: list[str], run_hydra: Runner
) -> None:
    arguments = [*small, *LONG, "loss.beta=0.1"]
    first = start(arguments)
    paths = wait_for_step(tmp_path, first, 2)
    before = paths.config.read_text()
    second = run_hydra([*arguments, "seed=0"])  # another way to say the same config
    assert second.returncode == 1
    assert f"is being worked on by process {read_state(paths).pid} on" in second.stderr
    assert paths.config.read_text() == before
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert read_state(paths).attempt == 1


def test_a_sweep_goes_on_after_a_failed_point_and_a_second_time_skips_what_is_complete(
    tmp_path: Path, small: list[str], run_hydra: Runner
) -> None:
    # A learning rate of 1e38 overflows; a target that takes no such keys fails on being built.
    arguments = [
        "-m",
        *small,
        "loss.beta=0.1,0.2",
        "data.dataset._target_=gpt_opt.training.data.build_jsonl,json.loads",
    ]
    done = run_hydra(arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    runs = [RunPaths(path) for path in find_run_dirs(tmp_path / "outputs")]
    states = sorted(read_state(paths).state for paths in runs)
    assert states == [State.COMPLETED, State.COMPLETED, State.FAILED, State.FAILED]
    for paths in runs:
        state = read_state(paths)
        if state.state is State.FAILED:
            assert state.error is not None
            assert state.error["type"] == "TypeError"
            assert "Traceback" in state.error["traceback"]
            assert "Traceback" in paths.task_log.read_text()
            assert not paths.summary.exists()
    again = run_hydra(["-m", *small, "loss.beta=0.1,0.2"])
    assert again.returncode == 0
    assert again.stdout.count("already complete: ") == 2
    single = run_hydra([*small, "loss.beta=0.2"])
    assert single.stdout.startswith("already complete: ")
    assert len(find_run_dirs(tmp_path / "outputs")) == 4


def test_a_finished_run_has_all_of_its_files(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    os.environ["SECRET_CANARY"] = "canary-93f1"
    overrides = [*small, "loss.beta=0.1", "training.sampling.sample_during_eval=true"]
    try:
        done = run_hydra(overrides)
    finally:
        del os.environ["SECRET_CANARY"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step=12 loss=0." in done.stdout
    paths = only_run(tmp_path)
    assert paths.root.parent.relative_to(tmp_path / "outputs") == Path("tiny-gpt2/jsonl/adamw")
    assert paths.root.name.endswith(read_state(paths).run_id)
    state = read_state(paths)
    assert (state.state, state.step, state.total_steps, state.attempt) == (State.COMPLETED, 12, 12, 1)
    assert {file.name for file in paths.hydra.iterdir()} == {"config.yaml", "overrides.yaml", "hydra.yaml"}
    assert json.loads(paths.config.read_text())["loss"]["beta"] == 0.1
    provenance = json.loads(paths.provenance.read_text())
    assert provenance["packages"]["torch"]
    assert provenance["seed"] == 0
    assert "step=12" in paths.task_log.read_text()
    everything = b"".join(file.read_bytes() for file in paths.root.rglob("*") if file.is_file())
    assert b"canary-93f1" not in everything
    assert not list(paths.root.rglob("*.tmp"))

    rerun = run_hydra([*overrides, "rerun=true"])
    assert rerun.returncode == 0, rerun.stdout + rerun.stderr
    assert read_state(paths).attempt == 2
    (kept,) = paths.superseded.iterdir()
    old, new = json.loads((kept / "summary.json").read_text()), json.loads(paths.summary.read_text())
    assert (old["attempt"], new["attempt"]) == (1, 2)
    assert (kept / "samples.jsonl").read_bytes() == paths.samples.read_bytes() != b""
    assert old["metrics"]["eval/loss"] == new["metrics"]["eval/loss"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ["loss.beta: is mandatory", "add for example: loss.beta=0.1"]),
        (
            ["loss.beta=0.1", "optimizer.optimizer_params.learning_rate=1"],
            ["did you mean optimizer.optimizer_params.lr?"],
        ),
        (
            ["loss.beta=0.1", "optimizer=adagrad"],
            ["optimizer: must be one of adam, ", "but is 'adagrad'"],
        ),
        (["paths=local_run_dir"], ["2 problems", "exp_name: is mandatory", "loss.beta: is mandatory"]),
        (["-m", "loss.beta=0.1,-2"], ["loss.beta: must be a finite number above 0, but is -2.0 (point 1 of 2)"]),
        (["-m", "loss.beta=0.1,0.2", "seeed=1"], ["did you mean seed?"]),
    ],
)
def test_a_wrong_request_exits_with_2_and_writes_nothing(
    tmp_path: Path, run_hydra: Runner, arguments: list[str], says: list[str]
) -> None:
    done = run_hydra(arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    for text in says:
        assert text in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_bad_rows_exit_with_2_and_the_run_says_failed(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(file.read_text() + '{"prompt": "x"}\n')
    done = run_hydra([*small, "loss.beta=0.1"])
    assert done.returncode == 2
    assert f"{file}:81: needs the columns 'chosen' and 'rejected'" in done.stderr
    assert "(its keys: prompt)" in done.stderr
    assert "its keys" not in done.stdout, "a terminal shows both: one mistake is told once"
    paths = only_run(tmp_path)
    assert "run failed: DataError: 1 problem" in paths.task_log.read_text()
    assert read_state(paths).state is State.FAILED


def test_a_local_run_dir_holds_the_resolved_config(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    arguments = [item for item in small if not item.startswith("paths.")]
    local = ["paths=local_run_dir", "exp_name=try", f"paths.local_dirs=[{tmp_path}/none,{tmp_path}/local]"]
    for _ in range(2):
        done = run_hydra([*arguments, *local, "loss.beta=0.1"], cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    runs = find_run_dirs(tmp_path / "local")
    assert len(runs) == 2
    assert all(path.name.startswith("try_20") for path in runs)
    assert all(json.loads((path / "config.json").read_text())["exp_name"] == "try" for path in runs)


def test_a_dry_run_prints_sizes_and_leaves_nothing(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    done = run_hydra([*small, "loss.beta=0.1", "dry_run=true"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parameters" in done.stdout
    assert f"{tmp_path}/outputs/tiny-gpt2/jsonl/adamw/" in done.stdout
    assert not (tmp_path / "outputs").exists()
    real = run_hydra([*small, "loss.beta=0.1"])
    assert real.returncode == 0
    assert str(only_run(tmp_path).root) in done.stdout


def test_a_dry_run_in_a_folder_of_the_users_leaves_it_alone(
    tmp_path: Path, small: list[str], run_hydra: Runner
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    done = run_hydra([*small, "loss.beta=0.1", "dry_run=true", f"hydra.run.dir={precious}"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (precious / "thesis.tex").read_text() == "x"


def test_a_rerun_that_was_cut_short_trains_from_the_start(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    arguments = [*small, "loss.beta=0.1"]
    assert run_hydra(arguments).returncode == 0
    paths = only_run(tmp_path)
    expected = result(paths)
    kept = paths.superseded / "cut-short"
    kept.mkdir(parents=True)
    paths.checkpoints.rename(kept / "checkpoints")  # the first of the moves; then the process was killed
    paths.metrics.rename(kept / "metrics.jsonl")
    done = run_hydra([*arguments, "rerun=true"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step=2 " in done.stdout
    assert result(paths) == expected
    paths.state.write_text('{"state"')
    torn = run_hydra(arguments)
    assert torn.returncode == 0
    assert "must be a state written by gpt-opt" in torn.stdout
    assert "already complete" in torn.stdout
    assert result(paths) == expected


def test_inputs_that_changed_since_are_told_by_a_start_and_by_a_plan(
    tmp_path: Path,
    small: list[str],
    run_hydra: Runner,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = [*small, "loss.beta=0.1"]
    assert run_hydra(arguments).returncode == 0
    paths, file = only_run(tmp_path), tmp_path / "pairs.jsonl"
    sweep = tmp_path / "sweep.json"
    sweep.write_text('{"loss.beta": 0.1}')
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    provenance = json.loads(paths.provenance.read_text())
    words, digest = f"{file} has changed since", provenance["inputs"]["data.dataset.path"]["sha256"]
    before = {name: item for name, item in provenance.items() if name != "inputs"} | {"data_sha256": digest}
    for record in (provenance, before):  # as it is, and as a version before recorded it
        paths.provenance.write_text(json.dumps(record))
        done = run_hydra(arguments)
        assert done.returncode == 0
        assert done.stdout.strip().endswith(f", but {words}: rerun=true trains again")
        for options, shown in [([], "done, inputs changed"), (["--explain", "0"], " is done: "), (["--json"], "{")]:
            assert main(["plan", str(sweep), *small, *options]) == 0
            output = capsys.readouterr().out
            assert shown in output
            assert words + (": rerun=true trains again" if shown != "{" else '"') in output
        caplog.clear()
        assert main(["submit", str(sweep), *small, "--backend", "local", "--dry-run"]) == 0
        assert f"1 done: {words}: rerun=true trains again" in caplog.text
        capsys.readouterr()


def test_an_interrupted_run_with_other_weights_is_refused_and_trains_anew_when_told_to(
    tmp_path: Path, small: list[str], run_hydra: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_hydra([*small, "loss=sft", "training.training_params.max_steps=1"]).returncode == 0
    weights = tmp_path / "weights.safetensors"
    start = only_run(tmp_path).checkpoints / "checkpoint-1" / "model.safetensors"
    weights.write_bytes(start.read_bytes())
    arguments = [*small, "loss.beta=0.1", f"model.archive={weights}", f"paths.output_dir={tmp_path}/outputs/own"]
    assert run_hydra(arguments).returncode == 0
    (root,) = find_run_dirs(tmp_path / "outputs" / "own")
    paths = RunPaths(root)
    expected = result(paths)
    paths.summary.unlink()
    write_state(paths, replace(read_state(paths), state=State.INTERRUPTED))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    sweep = tmp_path / "sweep.json"
    sweep.write_text('{"base": {}}')
    assert main(["plan", str(sweep), *arguments]) == 0
    assert f"1 started: {weights} has changed since: only with weights and data as they were" in capsys.readouterr().out
    refused = run_hydra(arguments)
    assert refused.returncode == 2
    assert "model.archive: must be what checkpoint-12 was trained with, " in refused.stderr
    assert "restore it, or train from the start: rerun=true" in refused.stderr
    assert main(["plan", str(sweep), *arguments]) == 0
    assert f"1 started: {weights} has changed since" in capsys.readouterr().out  # failed now, with step 0
    write_state(paths, replace(read_state(paths), state=State.INTERRUPTED))
    again = run_hydra([*arguments, "rerun=true"])
    assert again.returncode == 0, again.stdout + again.stderr
    assert "step=2 " in again.stdout
    assert result(paths)["metrics"] != expected["metrics"]


def test_a_run_whose_only_checkpoint_is_damaged_is_an_error_until_it_is_told_to_train_anew(
    tmp_path: Path, small: list[str], run_hydra: Runner
) -> None:
    arguments = [*small, "loss.beta=0.1"]
    assert run_hydra(arguments).returncode == 0
    paths = only_run(tmp_path)
    expected = result(paths)
    paths.summary.unlink()
    write_state(paths, replace(read_state(paths), state=State.INTERRUPTED))
    file = paths.checkpoints / "checkpoint-12" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-1])
    refused = run_hydra(arguments)
    assert refused.returncode == 2
    assert f"{file.parent}: must be a whole checkpoint, but optimizer.pt has " in refused.stderr
    assert "Error executing job" not in refused.stderr
    write_state(paths, replace(read_state(paths), state=State.INTERRUPTED))
    again = run_hydra([*arguments, "rerun=true"])
    assert again.returncode == 0, again.stdout + again.stderr
    assert result(paths) == expected


def test_what_hydra_refuses_is_one_clear_error(tmp_path: Path, run_hydra: Runner) -> None:
    done = run_hydra(["loss.beta=0.1", "foo=1", "--cfg", "job"], cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "foo" in done.stderr
    none = run_hydra(["-m", "loss.beta=glob(x*)"], cwd=tmp_path)
    assert none.returncode == 2
    assert "must give at least one value" in none.stderr


def test_the_resolved_config_can_be_shown(run_hydra: Runner) -> None:
    done = run_hydra(["loss.beta=0.1", "--cfg", "job", "--resolve"])
    assert done.returncode == 0, done.stderr
    assert "beta: 0.1" in done.stdout


def test_a_directory_of_another_config_is_refused(tmp_path: Path, small: list[str], run_hydra: Runner) -> None:
    assert run_hydra([*small, "loss.beta=0.1"]).returncode == 0
    folder = only_run(tmp_path).root
    done = run_hydra([*small, "loss.beta=0.2", f"'hydra.run.dir=\"{folder}\"'".strip("'")])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "belongs to run" in done.stderr


def test_task_log_is_written_whatever_the_job_logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, ours = logging.getLogger(), logging.getLogger("gpt_opt.some.module")
    monkeypatch.setattr(root, "handlers", [logging.FileHandler(tmp_path / "job.log")])  # as hydra-colorlog leaves it
    monkeypatch.setattr(ours, "disabled", True)  # as hydra/job_logging=disabled does
    run_main._drop_log_files("job")
    with run_main._task_log(RunPaths(tmp_path)):
        ours.warning("said")
    assert RunPaths(tmp_path).task_log.read_text().endswith("[gpt_opt.some.module][WARNING] said\n")
    assert not (tmp_path / "job.log").exists()
    assert root.handlers == []


def test_optuna_optimizes_the_metric_of_new_and_of_finished_runs(
    tmp_path: Path, small: list[str], run_hydra: Runner
) -> None:
    """Four trials of two values: the later ones find their runs complete."""
    study = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1"]
    done = run_hydra([*study, *small, "loss.beta=choice(0.05,0.5)"])
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [RunPaths(folder) for folder in find_run_dirs(tmp_path / "outputs")]
    losses = {
        json.loads(run.config.read_text())["loss"]["beta"]: json.loads(run.summary.read_text())["metrics"]["eval/loss"]
        for run in runs
    }
    assert done.stdout.count("already complete") == 4 - len(losses) > 0
    end = (tmp_path / "outputs" / "optimization_results.yaml").read_text()
    assert len(losses) == 2
    assert f"loss.beta: 0.5\nbest_value: {losses[0.5]}\n" in end
    assert losses[0.5] < losses[0.05]
