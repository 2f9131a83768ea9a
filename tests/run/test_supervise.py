"""One run of an application that knows nothing of gpt-opt, from its claim to its result: real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gpt_opt.app.code import code_of
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.process import lives
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import State, read_state
from gpt_opt.records.step_log import read_metrics
from gpt_opt.records.summary import read_summary
from gpt_opt.records.sweep_dir import Submission, Sweep

pytestmark = pytest.mark.filterwarnings("ignore")

RUN = "0123456789ab"

TRAIN = """
import json, os, pickle, signal, sys, threading, time
from pathlib import Path
from hydra.core.override_parser.overrides_parser import OverridesParser
from gpt_opt import report, should_stop

keys = dict(word.split("=", 1) for word in sys.argv[1:])
folder = Path(os.environ["GPTOPT_RUN_DIR"])
(folder / "pid").write_text(str(os.getpid()))
(folder / "words.json").write_text(json.dumps(sys.argv[1:]))
(folder / "environment.json").write_text(json.dumps(dict(os.environ)))
value = OverridesParser.create().parse_override(f"resume={keys['resume']}").value() if "resume" in keys else None
first = int(Path(value).read_text()) if value else 0
how = keys.get("how", "")
if how == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how == "deaf":
    report(step=1, loss=1.0)
steps = int(keys.get("steps", "5"))
for step in range(first + 1, steps + 1):
    report(step=step, loss=1 / step)
    (folder / "new").write_text(str(step))
    (folder / "new").rename(folder / "step=1,last.ckpt")
    if how == "raise" and step == 3:
        raise ValueError("the loss is no number")
    if how == "hydra" and step == 3:
        raise RuntimeError("Error in call to target 'a.Trainer':\\nKeyError('lr')\\nfull_key: trainer")
    if how == "exit" and step == 3:
        os._exit(7)
    if how == "die" and step == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "polite" and should_stop():
        sys.exit(0)
    time.sleep(float(keys.get("pause", "0")))

class Metric(float):
    pass

def evaluate():
    time.sleep(0.2)
    report(step=steps + 1, loss=pickle.loads(pickle.dumps(Metric(0.01))))

if how == "thread":
    threading.Thread(target=evaluate).start()
"""


class App:
    """An application in a folder, and its one run."""

    def __init__(self, folder: Path, **tables: str) -> None:
        self.folder = folder
        (folder / "conf").mkdir()
        (folder / "conf/config.yaml").write_text("seed: 1\n")
        (folder / "train.py").write_text(TRAIN)
        text = '[app]\nscript = "train.py"\nconfig_path = "conf"\n' + tables.get("app", "")
        text += "".join(f"[{name}]\n{lines}\n" for name, lines in tables.items() if name != "app")
        (folder / "gptopt.toml").write_text(text)
        self.paths = RunPaths(folder / f"outputs/it's {{a}} run-{RUN}")
        sweep = folder / "sweeps/it/1"
        sweep.mkdir(parents=True)
        line = {"run_id": RUN, "changes": [[["seed"], [1]]]}
        (sweep / "planned_configs.jsonl").write_text(json.dumps(line) + "\n")
        Sweep(sweep).write_submission(Submission("it", "it.json", (), "local", (), None, str(folder), str(folder)))
        self.sweep = sweep

    def command(self, *overrides: str) -> list[str]:
        words = ["--settings", str(self.folder / "gptopt.toml"), "--run-dir", str(self.paths.root), "--id", RUN]
        return [sys.executable, "-m", "gpt_opt.run.supervise", *words, "--", *overrides]

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "err").open("ab")
        environment = {**os.environ, "GPTOPT_SWEEP_DIR": str(self.sweep)}
        return subprocess.Popen(self.command(*overrides), env=environment, cwd=self.folder, stderr=log)

    def run(self, *overrides: str) -> int:
        return self.start(*overrides).wait(60)

    def said(self) -> str:
        return (self.folder / "err").read_text()

    def words(self) -> list[str]:
        return list(json.loads((self.paths.root / "words.json").read_text()))

    def steps(self) -> Sequence[int]:
        return [row["step"] for row in read_metrics(self.paths.metrics).records]

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def begun(self) -> bool:
        return self.paths.metrics.exists() and len(self.steps()) >= 2


RESUMES = {"resume": 'checkpoints = "*.ckpt"\noverrides = ["resume={last_checkpoint}"]'}


def test_a_run_is_completed_by_exit_code_0(tmp_path: Path) -> None:
    app = App(tmp_path)
    assert app.run("steps=4") == 0
    state, summary = read_state(app.paths), read_summary(app.paths)
    assert (state.state, state.step, state.run_id) == (State.COMPLETED, 4, RUN)
    assert summary["metrics"] == {"loss": 0.25}
    assert summary["step"] == 4
    assert json.loads(app.paths.config.read_text()) == {"seed": 1}
    assert app.words()[:2] == ["steps=4", "hydra.mode=RUN"]
    told = OverridesParser.create().parse_override(app.words()[-1])
    assert (told.key_or_group, told.value()) == ("hydra.run.dir", str(app.paths.root))
    assert not list(app.paths.root.glob(".*.tmp"))
    before = app.paths.summary.read_bytes()
    assert app.run("steps=4") == 0
    assert app.paths.summary.read_bytes() == before
    assert "already complete" in app.said()


@pytest.mark.parametrize(
    ("how", "code", "kind", "message"),
    [
        ("raise", 1, "ValueError", "the loss is no number"),
        ("hydra", 1, "RuntimeError", "Error in call to target 'a.Trainer': KeyError('lr') full_key: trainer"),
        ("exit", 7, "ExitCode", "7"),
    ],
)
def test_a_run_that_fails_says_why(tmp_path: Path, how: str, code: int, kind: str, message: str) -> None:
    app = App(tmp_path)
    assert app.run(f"how={how}") == code
    state = read_state(app.paths)
    assert state.state is State.FAILED
    assert state.step == 3
    assert state.error is not None
    assert state.error["type"] == kind
    assert state.error["message"].startswith(message)
    assert ("in <module>" in state.error["traceback"]) == (how != "exit")
    assert not app.paths.summary.exists()


def test_the_other_slots_are_no_ranks_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, kept = App(tmp_path), {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2", "SLURM_CONF": "/c"}
    gone = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NODEID": "0", "PMI_RANK": "3"}
    for name, value in {**kept, **gone, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "2(x2)"}.items():
        monkeypatch.setenv(name, value)
    assert app.run() == 0
    environment = json.loads((app.paths.root / "environment.json").read_text())
    told = {name: value for name, value in environment.items() if name.startswith(("SLURM_", "PMI_"))}
    assert told == kept


def test_a_module_of_a_command_is_that_of_the_code_and_not_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    app = App(tmp_path / "code")
    for folder in (app.folder / "pkg", tmp_path / "pkg"):
        folder.mkdir()
        (folder / "train.py").write_text("import sys\nopen(sys.argv[1] + '/file', 'w').write(__file__)\n")
    (app.folder / "defaults.yaml").write_text("seed: 1\n")
    text = '[app]\ncommand = "python -m pkg.train {run_dir}"\ndefaults = "defaults.yaml"\n'
    (app.folder / "gptopt.toml").write_text(text)
    environment = {**os.environ, "GPTOPT_SWEEP_DIR": str(app.sweep)}
    subprocess.run(app.command(), env=environment, cwd=tmp_path, check=True)
    assert (app.paths.root / "file").read_text() == str(app.folder / "pkg" / "train.py")


def test_a_run_that_is_killed_looks_killed(tmp_path: Path) -> None:
    app = App(tmp_path)
    assert app.run("how=die") == -signal.SIGSEGV
    assert read_state(app.paths).state is State.INTERRUPTED  # its owner is dead
    assert app.run() == 0
    assert read_state(app.paths).state is State.COMPLETED


@pytest.mark.parametrize("how", ["", "polite", "ignore"])
def test_a_stopped_run_goes_on_from_its_newest_checkpoint(tmp_path: Path, how: str) -> None:
    app = App(tmp_path, run="grace_s = 1", **RESUMES)
    process = app.start("steps=60", "pause=0.05", f"how={how}")
    app.until(app.begun)
    process.terminate()
    assert process.wait(20) == 1
    reached = read_state(app.paths)
    assert reached.state is State.INTERRUPTED
    assert 0 < reached.step < 60
    assert ("it is killed" in app.said()) == (how == "ignore")
    metrics = app.paths.metrics.rename(tmp_path / "metrics.jsonl")
    assert app.run("steps=none") == 1, "it fails before its first step"
    assert read_state(app.paths).step == reached.step, "what it goes on from"
    metrics.rename(app.paths.metrics)
    (app.paths.root / "torn.ckpt").write_bytes(b"PK\x03\x04 and no more")
    assert app.run("steps=60", f"how={how}") == 0
    assert "torn.ckpt is half written and left out" in app.said()
    told = OverridesParser.create().parse_override(app.words()[-3])
    assert (told.key_or_group, told.value()) == ("resume", str(app.paths.root / "step=1,last.ckpt"))
    steps = app.steps()
    assert sorted(set(steps)) == list(range(1, 61))
    assert len(steps) <= 61
    assert not app.paths.superseded.exists()


def test_without_a_rule_it_starts_anew_in_a_clean_directory(tmp_path: Path) -> None:
    app = App(tmp_path)
    process = app.start("steps=600", "pause=0.05")
    app.until(app.begun)
    process.terminate()
    process.wait(20)
    assert app.run("steps=3") == 0
    assert app.steps() == [1, 2, 3]
    former = app.paths.superseded / "before-attempt-0002"
    assert {"metrics.jsonl", "step=1,last.ckpt", "words.json"} <= {path.name for path in former.iterdir()}


@pytest.mark.parametrize("warm", [False, True])
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path, warm: bool) -> None:
    app = App(tmp_path, app='warm_imports = ["json"]\n' if warm else "")
    process = app.start("steps=600", "pause=0.05", "how=ignore")
    app.until(app.begun)
    pid = int((app.paths.root / "pid").read_text())
    assert pid != process.pid
    assert lives(pid)
    process.kill()
    process.wait()
    app.until(lambda: not lives(pid))
    assert read_state(app.paths).state is State.INTERRUPTED


def test_a_fork_that_has_imported_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "cold").mkdir()
    (tmp_path / "warm").mkdir()
    cold, warm = App(tmp_path / "cold"), App(tmp_path / "warm", app='warm_imports = ["json"]\n')
    for how, code in (("raise", 1), ("exit", 7)):
        assert cold.run(f"how={how}") == warm.run(f"how={how}") == code
        assert read_state(cold.paths).error["message"] == read_state(warm.paths).error["message"]  # type: ignore[index]
    assert cold.run("how=thread") == warm.run("how=thread") == 0
    assert cold.steps()[-1] == 6, "of the thread that outlives the script's last line"
    assert read_summary(cold.paths)["metrics"] == read_summary(warm.paths)["metrics"]


def test_a_warning_of_the_time_limit_ends_no_application_before_its_grace(tmp_path: Path) -> None:
    app = App(tmp_path, run="grace_s = 20", **RESUMES)
    process = app.start("steps=600", "pause=0.05", "how=polite")
    app.until(app.begun)
    pid = int((app.paths.root / "pid").read_text())
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)  # Slurm sends it to every process of a step, with no supervisor between
    reached = app.steps()[-1]
    app.until(lambda: app.steps()[-1] > reached)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(20) == 1
    assert read_state(app.paths).state is State.INTERRUPTED
    assert "the next start goes on from step=1,last.ckpt" in app.said()
    assert "it is killed" not in app.said()


def test_an_application_ends_when_another_attempt_has_taken_its_run(tmp_path: Path) -> None:
    app = App(tmp_path)
    process = app.start("steps=6000", "pause=0.05", "how=ignore")
    app.until(app.begun)
    pid = int((app.paths.root / "pid").read_text())
    taken = (app.paths.claims / "0001.json").read_text()
    (app.paths.claims / "0002.json").write_text(taken)
    before = app.paths.state.read_bytes()
    assert process.wait(20) == 1
    assert not lives(pid)
    assert "was replaced while it was silent" in app.said()
    assert read_state(app.paths).state is not State.COMPLETED
    assert json.loads(before)["attempt"] == json.loads(app.paths.state.read_bytes())["attempt"] == 1


def test_a_run_without_steps_has_no_number_of_them_and_the_code_of_its_application(tmp_path: Path) -> None:
    app = App(tmp_path)
    assert app.run("steps=0") == 0
    state = json.loads(app.paths.state.read_text())
    assert (state["state"], state["total_steps"]) == ("COMPLETED", None)
    found = json.loads(app.paths.provenance.read_text())
    assert found["code"] == {"sha256": code_of(tmp_path).sha256, "snapshot": None}
    assert (found["git_commit"], found["git_diff"]) == (None, None)  # it is in no repository


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    app = App(tmp_path)
    process = app.start("steps=600", "pause=0.05")
    app.until(app.begun)
    assert app.run() == 1
    assert "is being worked on by" in app.said()
    process.terminate()
    process.wait(20)
    write_text(app.sweep / "planned_configs.jsonl", to_json({}))
    assert app.run() == 2
    assert f"must name a sweep with the run {RUN}" in app.said()


def test_a_link_to_a_checkpoint_that_is_gone_is_none(tmp_path: Path) -> None:
    app = App(tmp_path, **RESUMES)
    app.paths.root.mkdir(parents=True)
    (app.paths.root / "last.ckpt").symlink_to("epoch=3.ckpt")
    assert app.run() == 0, app.said()
    assert "starts anew" in app.said()


LEAVING = """
import os, subprocess, sys, time
from pathlib import Path

how = dict(word.split("=", 1) for word in sys.argv[1:])["how"]
code = "import os, time; open('left', 'w').write(str(os.getpid())); os.replace('left', 'left.pid'); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code], cwd=os.environ["GPTOPT_RUN_DIR"], start_new_session=how == "session")
while not Path(os.environ["GPTOPT_RUN_DIR"], "left.pid").exists():
    time.sleep(0.02)
"""


@pytest.mark.parametrize("how", ["group", "session"])
def test_nothing_that_an_application_has_started_outlives_it(tmp_path: Path, how: str) -> None:
    app = App(tmp_path)
    (tmp_path / "train.py").write_text(LEAVING)
    assert app.run(f"how={how}") == 0, app.said()
    assert not lives(int((app.paths.root / "left.pid").read_text()))


SAVING = """
import os, signal, sys, time
from pathlib import Path

folder = Path(os.environ["GPTOPT_RUN_DIR"])

def save(*_):
    time.sleep(0.5)
    (folder / "last.ckpt").write_text("saved")
    sys.exit(0)

signal.signal(signal.SIGTERM, save)
(folder / "pid").write_text(str(os.getpid()))
time.sleep(600)
"""


def test_a_program_that_a_shell_has_started_has_its_grace(tmp_path: Path) -> None:
    app = App(tmp_path)
    (tmp_path / "train.py").write_text(SAVING)
    (tmp_path / "defaults.yaml").write_text("seed: 1\n")
    (tmp_path / "run.sh").write_text(f"{sys.executable} {tmp_path}/train.py\necho done\n")
    head = '[app]\ncommand = "bash run.sh"\ndefaults = "defaults.yaml"\n'
    (tmp_path / "gptopt.toml").write_text(head + '[resume]\ncheckpoints = "*.ckpt"\n')
    process = app.start()
    app.until((app.paths.root / "pid").exists)
    app.until(lambda: (app.paths.root / "pid").read_text() != "")
    pid, began = int((app.paths.root / "pid").read_text()), time.monotonic()
    process.terminate()
    assert process.wait(20) == 1
    assert time.monotonic() - began < 15, "it ended by itself, before its grace of 30 s"
    assert not lives(pid)
    assert "the next start goes on from last.ckpt" in app.said()
