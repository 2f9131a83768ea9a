"""Trackers get the rows of metrics.jsonl: each real library, offline."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.state import State, read_state
from gpt_opt.run.execute import execute
from gpt_opt.training import trackers
from gpt_opt.training.interface import Folder, Hooks
from gpt_opt.training.loop import train
from gpt_opt.training.trackers import Reporters, Row, Tracked
from tests.conftest import ROOT, Runner
from tests.helpers.forked import ForkServer
from tests.training.test_training import config, folder

SECRET = "0123456789abcdef0123456789abcdef01234567"
WANDB = ["+logging=wandb", "logging.logging_params.wandb.mode=offline"]


class Stop:
    """Asks for a stop after `steps` steps; none stops never."""

    def __init__(self, steps: int | None = None) -> None:
        self._left = steps

    def __call__(self) -> bool:
        if self._left is not None:
            self._left -= 1
        return self._left == 0


def attempt(overrides: Sequence[str], place: Folder, stop_at: int | None = None, sweep: str | None = None) -> None:
    """One attempt at a run, as `gpt_opt.run.execute` makes it; `stop_at` ends it after so many steps."""
    plain = config([*overrides, "loss.beta=0.1"])
    assert constraint_problems(plain) == []
    root = place.metrics.parent
    reporters = Reporters(Tracked("0123456789ab", f"{root.name}-0123456789ab", root, place.metrics, sweep, plain))
    hooks = Hooks(lambda step, total: None, Stop(stop_at), lambda: None, reporters.log)
    result = train(plain, place, hooks)
    assert (result is None) == (stop_at is not None)
    reporters.close(completed=result is not None)


def points(place: Folder) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (step, value) of every row of metrics.jsonl."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in map(json.loads, place.metrics.read_text().splitlines()):
        for name in row.keys() - {"step", "time"}:
            found.setdefault(name, []).append((row["step"], row[name]))
    return found


def close_to(expected: Mapping[str, Sequence[tuple[int, float]]]) -> Mapping[str, Any]:
    """The same with values as exact as 32 bits are."""
    return {name: [(step, pytest.approx(value, rel=1e-6)) for step, value in rows] for name, rows in expected.items()}


def apart(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Calls a command that shares no process of wandb's with this one."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False)


# -- tensorboard ------------------------------------------------------------------------------------------------------


def tensorboard_points(files: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(files), size_guidance={"scalars": 0}).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_shows_the_rows_of_metrics_jsonl_also_after_steps_were_taken_back(
    tmp_path: Path, small: list[str]
) -> None:
    overrides = [*small, "logging.logging_params.report_to=[tensorboard]"]
    whole = folder(tmp_path / "whole")
    attempt(overrides, whole)
    assert {"loss", "rewards/accuracies", "learning_rate", "eval/loss"} <= points(whole).keys()
    assert tensorboard_points(tmp_path / "whole" / "tensorboard") == close_to(points(whole))

    broken = folder(tmp_path / "broken")
    crashing(overrides, broken, 10)
    assert points(broken)["loss"][-1][0] == 10  # later than the checkpoint of step 8
    attempt(overrides, broken)
    assert tensorboard_points(tmp_path / "broken" / "tensorboard") == close_to(points(broken))


def test_tensorboard_gets_the_config_and_a_folder_of_the_users_choice(tmp_path: Path, small: list[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    chosen = tmp_path / "all"
    overrides = [*small, "+logging=tensorboard", f"logging.logging_params.logging_dir={chosen}"]
    attempt(overrides, folder(tmp_path / "run"))
    events = EventAccumulator(str(chosen / "run-0123456789ab")).Reload()
    record = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    hparams = HParamsPluginData.FromString(record).session_start_info.hparams
    assert hparams["loss.beta"].number_value == 0.1
    assert hparams["model.name"].string_value == "tiny-gpt2"
    assert not (tmp_path / "run" / "tensorboard").exists()


# -- wandb ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_PROJECT", "of-the-environment")


def wandb_records(file: Path) -> list[Any]:
    """The records of an offline run, which another process writes, once the last one is there."""
    deadline = time.monotonic() + 60
    while "exit" not in {record.WhichOneof("record_type") for record in parsed(file.read_bytes())}:
        assert time.monotonic() < deadline, f"{file} has no end"
        time.sleep(0.1)
    return parsed(file.read_bytes())


def parsed(data: bytes) -> list[Any]:
    """The whole records of a LevelDB log of protocol buffers behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, whole, found = 7, b"", []
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + length > len(data):
            break
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, last
            found.append(Record.FromString(whole))
            whole = b""
    return found


def wandb_points(records: Sequence[Any]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name in row.keys() - {"step"}:
                if not name.startswith("_"):
                    found.setdefault(name, []).append((row["step"], row[name]))
    return found


def wandb_run(records: Sequence[Any]) -> Any:
    return next(record.run for record in records if record.WhichOneof("record_type") == "run")


def exit_code(records: Sequence[Any]) -> int:
    (ends,) = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
    return int(ends.exit_code)


@pytest.mark.usefixtures("wandb_home")
def test_wandb_gets_the_rows_the_config_and_the_group(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    attempt([*small, *WANDB, "logging.logging_params.wandb.tags=[a]"], place, sweep="beta_sweep")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-0123456789ab.wandb")
    records = wandb_records(file)
    assert wandb_points(records) == points(place)
    run = wandb_run(records)
    assert (run.run_id, run.display_name, run.run_group) == ("0123456789ab", "run-0123456789ab", "beta_sweep")
    assert (run.project, list(run.tags)) == ("of-the-environment", ["a"])
    given = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert given["loss.beta"] == 0.1
    assert given["training.training_params.max_steps"] == 12
    assert exit_code(records) == 0
    assert not [item for item in (tmp_path / "run").rglob("*") if item.is_file() and SECRET in _text(item)]


def _text(file: Path) -> str:
    return file.read_bytes().decode("latin-1")


class Crash(Exception):
    """What ends an attempt without a checkpoint."""


def crashing(overrides: Sequence[str], place: Folder, at: int) -> None:
    """An attempt that raises once it has logged step `at`."""
    plain = config([*overrides, "loss.beta=0.1"])
    root = place.metrics.parent
    reporters = Reporters(Tracked("0123456789ab", f"{root.name}-0123456789ab", root, place.metrics, None, plain))

    def crash(step: int, total: int) -> None:
        if step == at:
            raise Crash

    with pytest.raises(Crash):
        train(plain, place, Hooks(crash, lambda: False, lambda: None, reporters.log))
    reporters.close(completed=False)


def wandb_numbers(records: Sequence[Any]) -> list[int]:
    """wandb's own steps, which `wandb sync` sends as they are."""
    return [record.history.step.num for record in records if record.WhichOneof("record_type") == "history"]


@pytest.mark.usefixtures("wandb_home")
@pytest.mark.parametrize("synced", [False, True])
def test_each_row_of_a_resumed_run_is_in_one_record_that_wandb_will_sync(
    tmp_path: Path, small: list[str], synced: bool
) -> None:
    """One attempt logs 10 steps, of which its checkpoint takes 2 back, the next one stops after 10, the third ends."""
    place, folders = folder(tmp_path / "run"), tmp_path / "run" / "wandb"
    made: list[Path] = []
    for number in range(3):
        if number == 0:
            crashing([*small, *WANDB], place, 10)
        else:
            attempt([*small, *WANDB], place, stop_at=2 if number == 1 else None)
        (new,) = set(folders.glob("offline-run-*/*.wandb")) - set(made)
        made.append(new)
        if synced and number == 0:
            rows_of_the_first = len(place.metrics.read_text().splitlines())
            new.with_suffix(".wandb.synced").touch()  # as `wandb sync` does
    parts = [wandb_records(file) for file in made]
    assert {wandb_run(part).run_id for part in parts} == {"0123456789ab"}
    assert [exit_code(part) for part in parts] == [1, 1, 0]
    assert [file.with_suffix(".wandb.synced").exists() for file in made] == [True, True, False]
    total = len(place.metrics.read_text().splitlines())
    first = rows_of_the_first if synced else 0
    assert wandb_numbers(parts[-1]) == list(range(first, total))
    uploaded = [*(parts[0] if synced else []), *parts[-1]]
    assert wandb_numbers(uploaded) == list(range(total))
    clock = ("tokens_per_second", "eval/seconds")
    found = {name: rows for name, rows in wandb_points(uploaded).items() if name not in clock}
    assert found == {name: rows for name, rows in points(place).items() if name not in clock}


@pytest.mark.usefixtures("wandb_home")
def test_wandb_that_is_disabled_fails_at_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    params: dict[str, Any] = {"report_to": ["wandb"], "wandb": dict.fromkeys(("project", "entity", "group", "tags"))}
    params["wandb"]["mode"] = "disabled"
    metrics = tmp_path / "metrics.jsonl"
    plain = {"logging": {"logging_params": params}}
    reporters = Reporters(Tracked("0123456789ab", "name", tmp_path, metrics, None, plain))
    metrics.write_text('{"step": 0, "time": 0.0, "loss": 1.0}\n')
    reporters.log(0, {"loss": 1.0})
    reporters.close(completed=True)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.usefixtures("wandb_home")
def test_a_run_outlives_its_tracker_with_one_warning(tmp_path: Path, small: list[str]) -> None:
    """The process that wandb writes through is killed in the middle of a run, in a process of its own."""
    code = (
        "import logging, os, signal, sys\n"
        "logging.basicConfig(level=logging.WARNING)\n"
        "from pathlib import Path\n"
        "from gpt_opt.training import trackers\n"
        "from gpt_opt.training.interface import Hooks\n"
        "from gpt_opt.training.loop import train\n"
        "from tests.training.test_training import config, folder\n"
        "plain, place = config(sys.argv[2:]), folder(Path(sys.argv[1]))\n"
        "tracked = trackers.Tracked('id', 'name', place.metrics.parent, place.metrics, None, plain)\n"
        "reporters = trackers.Reporters(tracked)\n"
        "killed = []\n"
        "def report(step, values):\n"
        "    if step == 4 and not killed:\n"
        "        for file in Path('/proc').glob(f'{os.getpid()}/task/*/children'):\n"
        "            for child in file.read_text().split():\n"
        "                if 'wandb-core' in Path(f'/proc/{child}/cmdline').read_text():\n"
        "                    os.kill(int(child), signal.SIGKILL)\n"
        "                    killed.append(child)\n"
        "        assert killed\n"
        "    reporters.log(step, values)\n"
        "result = train(plain, place, Hooks(lambda s, t: None, lambda: False, lambda: None, report))\n"
        "reporters.close(completed=True)\n"
        "print('ended at step', result.step)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run"), *small, "loss.beta=0.1", *WANDB]
    done = apart(command)
    assert "ended at step 12" in done.stdout, done.stderr
    assert done.stderr.count("WARNING") == 1
    assert "wandb cannot be reported to any more, metrics.jsonl still has every row" in done.stderr


# -- mlflow -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    store = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return store


def test_a_resumed_run_continues_its_mlflow_run(tmp_path: Path, small: list[str], mlflow_store: str) -> None:
    from mlflow import MlflowClient

    place = folder(tmp_path / "run")
    client = MlflowClient(mlflow_store)
    statuses = []
    for end in ("stop", "crash", "whole"):
        if end == "crash":
            crashing([*small, "+logging=mlflow"], place, 10)  # after its row, which the checkpoint of step 8 takes back
        else:
            attempt([*small, "+logging=mlflow"], place, 6 if end == "stop" else None, sweep="beta_sweep")
        (run,) = client.search_runs([client.get_experiment_by_name("gpt-opt").experiment_id])  # type: ignore[union-attr]
        statuses.append(run.info.status)
    assert statuses == ["KILLED", "KILLED", "FINISHED"]
    clock = ("tokens_per_second", "eval/seconds")
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics if name not in clock}
    expected = {name: rows for name, rows in points(place).items() if name not in clock}
    assert {name: sorted((m.step, m.value) for m in rows) for name, rows in history.items()} == expected
    assert run.data.params["loss.beta"] == "0.1"
    assert run.data.params["model.archive"] == "None"
    assert run.info.run_name == "run-0123456789ab"
    own = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    assert own == {"gpt-opt.run": "0123456789ab", "sweep": "beta_sweep"}


def test_another_run_is_another_mlflow_run(tmp_path: Path, small: list[str], mlflow_store: str) -> None:
    from mlflow import MlflowClient

    plain = config([*small, "loss.beta=0.1", "+logging=mlflow"])
    for identity in ("a", "b", "a"):
        reporters = Reporters(Tracked(identity, identity, tmp_path, tmp_path / "metrics.jsonl", None, plain))
        reporters.log(0, {"loss": float("nan")})
        reporters.close(completed=True)
    client = MlflowClient(mlflow_store)
    runs = client.search_runs([client.get_experiment_by_name("gpt-opt").experiment_id])  # type: ignore[union-attr]
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]


def test_a_dead_mlflow_server_is_given_up_soon(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name in ("TIMEOUT", "MAX_RETRIES"):  # set, and so put back at the end
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "")
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}")
    started = time.perf_counter()
    plain = config([*small, "loss.beta=0.1", "+logging=mlflow"])
    Reporters(Tracked("id", "name", tmp_path, tmp_path / "metrics.jsonl", None, plain))
    assert time.perf_counter() - started < 40
    assert caplog.text.count("mlflow cannot be reported to any more") == 1


# -- what is asked for ------------------------------------------------------------------------------------------------


def problems(overrides: Sequence[str], small: list[str]) -> str:
    return "\n".join(map(str, constraint_problems(config([*small, "loss.beta=0.1", *overrides]))))


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_an_error_that_says_what_to_install(
    small: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    text = problems([f"+logging={name}"], small)
    assert f"report_to={name} needs the package {name}: pip install 'gpt-opt[{name}]'" in text


def test_a_folder_named_like_a_library_is_none(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    assert "needs the package wandb" in problems(["+logging=wandb"], small)


def test_an_unknown_tracker_and_keys_of_one_that_is_not_asked_are_refused(small: list[str]) -> None:
    text = problems(["logging.logging_params.report_to=[tensorbord]"], small)
    assert "must name any of tensorboard, wandb, mlflow, but has 'tensorbord'" in text
    text = problems(["logging.logging_params.wandb.project=x", "logging.logging_params.logging_dir=x"], small)
    assert "wandb.project: is for wandb alone, but report_to=[]" in text
    assert "logging_dir: is for tensorboard alone, but report_to=[]" in text


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any login."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_wandb_online_needs_a_key_and_mlflow_an_address(
    small: list[str], nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = "report_to=wandb needs a key, but there is none"
    assert needs in problems(["+logging=wandb"], small)
    assert problems(WANDB, small) == ""
    (nobody / ".netrc").write_text("machine example.org login user password x\n")
    assert needs in problems(["+logging=wandb"], small)
    (nobody / ".netrc").write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    assert problems(["+logging=wandb"], small) == ""
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert needs in problems(["+logging=wandb"], small)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert problems(["+logging=wandb"], small) == ""
    assert needs in problems(["+logging=wandb", "logging.logging_params.wandb.mode=online"], small)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert problems(["+logging=wandb", "logging.logging_params.wandb.mode=online"], small) == ""
    assert "export MLFLOW_TRACKING_URI" in problems(["+logging=mlflow"], small)


def test_trackers_are_closed_after_the_result_is_committed(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker may take its time, and the run be killed meanwhile."""
    plain = config([*small, "loss.beta=0.1", "+logging=tensorboard", "training.training_params.max_steps=2"])
    paths, closed = RunPaths(tmp_path / "run"), []

    class Slow:
        def __init__(self, run: Tracked) -> None: ...

        def log(self, rows: Sequence[Row]) -> None: ...

        def close(self, completed: bool) -> None:
            closed.append((completed, paths.summary.exists(), read_state(paths).state))

    monkeypatch.setitem(trackers._BUILDERS, "tensorboard", Slow)
    paths.root.mkdir()
    execute(plain, paths, {})
    assert closed == [(True, True, State.COMPLETED)]


@pytest.fixture
def call(tmp_path: Path, forks: ForkServer, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """run_hydra.py, which tells at its end the trackers that it has loaded, and DeepSpeed."""
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    (tmp_path / "call").mkdir()
    script = tmp_path / "call" / "run_hydra.py"
    script.write_text(
        "import runpy, sys\n"
        "trackers = ('tensorboard', 'wandb', 'mlflow', 'deepspeed')\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] in trackers]:\n"
        "    del sys.modules[name]\n"
        f"sys.argv[0] = {str(ROOT / 'run_hydra.py')!r}\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    print('loaded:', [name for name in trackers if name in sys.modules])\n"
    )
    return lambda arguments: forks.run([str(script), *arguments], ROOT, timeout_s=300)


def test_nothing_is_reported_or_imported_by_default(tmp_path: Path, small: list[str], call: Runner) -> None:
    done = call([*small, "loss.beta=0.1"])
    assert done.returncode == 0, done.stderr
    assert "loaded: []" in done.stdout
    (run,) = find_run_dirs(tmp_path / "outputs")
    assert not [name for name in ("tensorboard", "wandb", "mlruns") if (run / name).exists()]


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_home")
def test_a_run_reports_under_its_id_and_a_rerun_under_another(
    tmp_path: Path, small: list[str], call: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOPT_SWEEP", "beta_sweep")
    both = ["logging.logging_params.report_to=[wandb,tensorboard]", "logging.logging_params.wandb.mode=offline"]
    done = call([*small, "loss.beta=0.1", *both])
    assert done.returncode == 0, done.stderr
    assert "loaded: ['tensorboard', 'wandb']" in done.stdout
    (root,) = find_run_dirs(tmp_path / "outputs")
    identity = json.loads(RunPaths(root).summary.read_text())["run_id"]
    assert root.name.endswith(identity)
    assert tensorboard_points(root / "tensorboard").keys() >= {"loss", "eval/loss"}
    assert not [item for item in root.rglob("*") if item.is_file() and SECRET in _text(item)]
    assert call([*small, "loss.beta=0.1", *both, "rerun=true"]).returncode == 0
    runs = {wandb_run(wandb_records(file)).run_id: wandb_run(wandb_records(file)) for file in root.rglob("*.wandb")}
    assert runs.keys() == {identity, f"{identity}-1"}
    assert runs[identity].display_name == root.name
    assert {run.run_group for run in runs.values()} == {"beta_sweep"}


@pytest.mark.usefixtures("nobody")
def test_wandb_without_a_login_is_an_error_before_anything_starts(
    tmp_path: Path, small: list[str], call: Runner
) -> None:
    done = call([*small, "loss.beta=0.1", "+logging=wandb"])
    assert done.returncode == 2
    assert "report_to=wandb needs a key" in done.stderr
    assert not find_run_dirs(tmp_path / "outputs")


def test_the_sign_of_the_option_is_explained(small: list[str], run_hydra: Runner) -> None:
    done = run_hydra([*small, "loss.beta=0.1", "logging=wandb"])
    assert done.returncode == 2
    assert "add one: +logging=wandb" in done.stderr
    done = run_hydra([*small, "loss.beta=0.1", "+logging=wandb", "+logging=mlflow"])
    assert "takes one option, but '+logging=wandb' and '+logging=mlflow' were given" in done.stderr
