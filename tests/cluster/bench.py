"""What tests of sweeps on the real cluster share: a workplace, waiting, and what must hold after every fault."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt_opt.dispatch.slot.gpus import own_folder
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.records.attempts import Attempt, History, read_history
from gpt_opt.records.claim import read_claim
from gpt_opt.records.run_dir import RunPaths, saved_step
from gpt_opt.records.state import State, StateUnreadable, read_state
from gpt_opt.records.sweep_dir import Sweep, find
from tests.cluster.cluster import Cluster
from tests.conftest import ROOT, small_overrides

STEPS, SAVE_EVERY, LOG_EVERY, EVAL_EVERY = 100, 20, 4, 60
"""What is to be hit lasts by its pauses, which cost no core: a step costs some 5 ms."""

BUILDER = '''"""A data source of a user: breaks, or eats memory, while a file that says so is there."""
from pathlib import Path
from gpt_opt.training.data import build_jsonl

def build(**options):
    if Path(f"break-{options['max_samples']}").exists():
        raise RuntimeError(f"broken on purpose at {options['max_samples']}")
    if Path(f"eat-{options['max_samples']}").exists():
        eaten = [b"x" * (1 << 24) for _ in range(1 << 10)]
    return build_jsonl(**options)
'''

SLOW = '''"""An optimizer that takes its time without taking a core, so that there is time to hit a run;
while a file `hold` is there it waits."""
import time
from pathlib import Path

import torch

class Slow(torch.optim.AdamW):
    def step(self, closure=None):
        time.sleep({pause_s})
        while Path("hold").exists():
            time.sleep(0.1)
        return super().step(closure)
'''


@dataclass(frozen=True)
class Bench:
    """A folder with a sweep file, on a cluster or, where that is None, on this machine alone.

    With `forks`, the environment of a fork server, runs need not import the libraries first.
    """

    folder: Path
    cluster: Cluster | None
    forks: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        env = {**(self.cluster.env if self.cluster is not None else os.environ), **self.forks}
        bin_dir = str(Path(sys.executable).parent)
        path = os.pathsep.join([str(self.folder), *filter(None, [env.get("PYTHONPATH")])])
        own = {"PYTHONPATH": path, "PATH": f"{bin_dir}:{env['PATH']}", "OMP_NUM_THREADS": "1"}
        return env | own | {"TMPDIR": str(self.tmp)}

    @property
    def tmp(self) -> Path:
        """The cluster's own TMPDIR: GPU locks go by node name, and another cluster on this machine has the same."""
        if self.cluster is None:
            return Path(tempfile.gettempdir())  # the worker's own
        (folder := self.cluster.home / "tmp").mkdir(exist_ok=True)
        return folder

    def write(self, values: Sequence[int], steps: int = STEPS, pause_s: float = 0.0, **more: Any) -> Path:
        """Writes sweep.json: one run for each value of max_samples; each of its steps takes `pause_s` longer."""
        (self.folder / "faulty.py").write_text(BUILDER)
        (self.folder / "slow.py").write_text(SLOW.format(pause_s=pause_s))
        base: dict[str, Any] = {}
        for text in small_overrides(self.folder):
            key, _, value = text.partition("=")
            try:
                base[key] = json.loads(value)
            except ValueError:
                base[key] = value
        params = "training.training_params"
        base |= {f"{params}.max_steps": steps, f"{params}.save_every": SAVE_EVERY, f"{params}.log_every": LOG_EVERY}
        base |= {f"{params}.eval_every": EVAL_EVERY, "loss.beta": 0.1, "data.dataset._target_": "faulty.build"}
        if pause_s:
            base["optimizer.optimizer_params._target_"] = "slow.Slow"
        base["paths.output_dir"] = "outputs"
        grid = {"data.dataset.max_samples": list(values)}
        file = self.folder / "sweep.json"
        file.write_text(json.dumps({"name": "sweep", "base": base, "grid": grid, **more}))
        return file

    def call(self, *command: str, expect: int | None = 0, timeout_s: float = 240) -> str:
        """Runs a command in the folder and returns what it printed; `expect` is the exit code that must come."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert expect is None or done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def gptopt(self, *arguments: str, expect: int | None = 0) -> str:
        return self.call("gptopt", *arguments, expect=expect)

    def submit(self, *flags: str) -> Sweep:
        self.gptopt("submit", "sweep.json", *flags)
        return self.sweep()

    def sweep(self) -> Sweep:
        return find("sweep", self.folder / "sweeps")

    def jobs(self) -> list[str]:
        return [job.id for job in self.sweep().submission().jobs]

    def driver_pid(self) -> int:
        claim = read_claim(self.sweep().driver)
        assert claim is not None
        return claim.owner.pid

    def wait(self, what: str, holds: Callable[[], bool], timeout_s: float = 240) -> float:
        """Waits until `holds` and returns the seconds; on a timeout says what the sweep looks like."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > timeout_s:
                raise AssertionError(f"{what}: not within {timeout_s} s\n{self.picture()}")
            time.sleep(0.1)
        return time.monotonic() - began

    def picture(self) -> str:
        sweep = self.sweep()
        texts = [file.read_text(errors="replace") for file in sorted(sweep.logs.glob("*.out"))]
        texts += [file.read_text(errors="replace")[-3000:] for file in sorted(sweep.logs.glob("*.err"))]
        texts += [sweep.attempts(run).read_text() for run in sweep.runs if sweep.attempts(run).exists()]
        return "\n".join(texts) + (self.cluster.run("squeue") if self.cluster is not None else "")

    def step(self, index: int = 0) -> int:
        """Returns the steps that a running run has told of, or -1."""
        try:
            state = read_state(self.sweep().runs[index].paths())
        except StateUnreadable:
            return -1
        return state.step if state.state is State.RUNNING else -1

    def wait_for_step(self, index: int = 0, step: int = SAVE_EVERY + LOG_EVERY) -> int:
        """Waits until a run is past its first checkpoint, which is on disk, and returns its process."""

        def holds() -> bool:
            is_saved = step < SAVE_EVERY or saved_step(self.sweep().runs[index].paths()) is not None
            return self.step(index) >= step and is_saved

        self.wait(f"run {index} at step {step}", holds)
        pid = read_state(self.sweep().runs[index].paths()).pid
        assert pid is not None
        return pid

    def wait_until_done(self, timeout_s: float = 300) -> float:
        return self.wait(
            "all runs done", lambda: len(classify_runs(self.sweep()).done) == len(self.sweep().runs), timeout_s
        )

    def wait_until_idle(self, timeout_s: float = 120) -> None:
        """Waits until no job of the sweep is in the queue and no process of one is left."""
        assert self.cluster is not None
        cluster = self.cluster
        self.wait("empty queue", lambda: not cluster.run("squeue", "-h").strip(), timeout_s)
        self.wait("no strays", lambda: not cluster.processes(), timeout_s)

    def history(self, index: int) -> History:
        sweep = self.sweep()
        return read_history(sweep.attempts(sweep.runs[index]))

    def starts(self) -> list[int]:
        """Returns how often each run was started."""
        return [len(self.history(run.index).attempts) for run in self.sweep().runs]

    def at_work(self) -> list[Attempt]:
        """Returns the attempts that have not ended."""
        histories = [self.history(run.index) for run in self.sweep().runs]
        return [attempt for history in histories for attempt in history.attempts[-1:] if attempt.ended is None]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lets no run make a step within the block; for sweeps with pauses."""
        (hold := self.folder / "hold").touch()
        try:
            yield
        finally:
            hold.unlink()

    def wait_for_runs_at_once(self, number: int) -> None:
        """Waits until so many runs are at work; nothing but `held` keeps the first of them from ending before."""
        self.wait(f"{number} runs at once", lambda: len(self.at_work()) == number)

    def account(self) -> str:
        """Returns final states, starts of the runs that were hit, and how soon the slowest of them went on."""
        if not list(self.folder.glob("sweeps/sweep/*")):
            return "no sweep"
        states = Counter(str(read_state(run.paths()).state) for run in self.sweep().runs)
        hit, gaps = [], [0.0]
        for run in self.sweep().runs:
            attempts = self.history(run.index).attempts
            hit += [len(attempts)] if len(attempts) > 1 else []
            for before, after in itertools.pairwise(attempts):
                ended = datetime.fromisoformat(before.ended or before.started)
                gaps.append((datetime.fromisoformat(after.started) - ended).total_seconds())
        said = ", ".join(f"{number} {state}" for state, number in states.items())
        return f"{said}; starts of runs hit {sorted(hit)}; back after at most {max(gaps):.0f} s"

    def results(self) -> dict[str, str]:
        """Returns run id -> text of its committed result."""
        return {
            run.run_id: run.paths().summary.read_text() for run in self.sweep().runs if run.paths().summary.exists()
        }

    def verify(self, steps: int = STEPS) -> None:
        """Asserts what must hold after every fault, once all runs are done and no job is left."""
        for run in self.sweep().runs:
            paths = run.paths()
            assert read_state(paths).state is State.COMPLETED
            assert json.loads(paths.summary.read_text())["step"] == steps
            assert len(list(paths.root.parent.glob(f"*-{run.run_id}"))) == 1
            assert_no_gaps(paths, steps)
            assert not list(paths.root.glob(".*.tmp")), "half-written files"
        assert_locks_free(self.tmp)
        if self.cluster is not None:
            assert not self.cluster.processes()


def assert_no_gaps(paths: RunPaths, steps: int) -> None:
    """Asserts that every logged step is there once, in order."""
    rows = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    logged = [row["step"] for row in rows if "loss" in row]
    expected = [*range(LOG_EVERY, steps, LOG_EVERY), steps]
    assert logged == expected, paths.metrics
    evaluated = [row["step"] for row in rows if "eval/loss" in row]
    assert evaluated == [*range(0, steps, EVAL_EVERY), steps], paths.metrics


def assert_locks_free(tmp: Path) -> None:
    """Asserts that no process holds a GPU lock."""
    for file in tmp.glob(f"{own_folder('gpus').name}/*"):
        with file.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def repository() -> str:
    """Returns the repository as a string."""
    return str(ROOT)
