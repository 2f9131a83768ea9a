"""Sweeps and runs on disk as gpt-opt writes them, without training."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt_opt.records.attempts import Attempt, note_start
from gpt_opt.records.io import append_records, to_json, write_text
from gpt_opt.records.process import Owner, this_process
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, write_state
from gpt_opt.records.sweep_dir import Job, Shape, Submission, Sweep, SweepRun, create

STARTED, UPDATED = "2026-01-01T10:00:00.000+00:00", "2026-01-01T10:05:00.000+00:00"
DEAD = Owner("n1", this_process().machine, 2**22 + 1, 1)
"""A process of this machine that is gone: pids end at 2**22."""


def make_sweep(
    folder: Path,
    points: Sequence[Sequence[str]],
    metric: dict[str, str] | None = None,
    jobs: Sequence[Job] = (),
    backend: str = "local",
    shapes: tuple[Shape, ...] = (Shape({}, 2),),
) -> Sweep:
    """Makes the sweep `beta/1` with a run for each list of overrides; they have the shapes in turn."""
    outputs = folder / "outputs" / "gpt2" / "pydoc" / "adamw"
    runs = [
        SweepRun(index, f"{index:012x}", str(outputs / f"run{index}-{index:012x}"), tuple(point), index % len(shapes))
        for index, point in enumerate(points)
    ]
    submission = Submission(
        sweep="beta",
        file="params/beta.json",
        extra=(),
        backend=backend,
        shapes=shapes,
        metric=metric,
        cwd=str(Path.cwd()),
        root=str(folder),
        jobs=tuple(jobs),
    )
    parent = folder / "sweeps" / "beta"
    parent.mkdir(parents=True)
    return create(parent, "{}", runs, submission)


def write_run(
    run: SweepRun,
    state: State,
    step: int = 0,
    total_steps: int | None = 100,
    rows: Sequence[Mapping[str, Any]] = (),
    **fields: Any,
) -> RunPaths:
    """Writes state.json, metrics.jsonl, and for a COMPLETED run summary.json."""
    paths = run.paths()
    paths.root.mkdir(parents=True, exist_ok=True)
    given = {"attempt": 1, "host": "n1", "started": STARTED, "updated": UPDATED, **fields}
    if state is State.COMPLETED:  # the summary comes first, as a run commits it
        write_text(paths.summary, to_json({"run_id": run.run_id, "step": step, "time_s": 120.0, "metrics": {}}))
    write_state(paths, RunState(run.run_id, state, step=step, total_steps=total_steps, **given))
    if rows:
        paths.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def attempt(
    sweep: Sweep,
    index: int,
    cause: str | None,
    message: str = "",
    session: str | None = "local-1",
    ended: str = UPDATED,
    **fields: Any,
) -> Attempt:
    """Notes a start, and an end where there is a cause."""
    file = sweep.attempts(sweep.runs[index])
    number = file.read_text().count('"start"') if file.exists() else 0
    made = Attempt(f"a{number}", STARTED, session, **{"owner": DEAD, "node": "n1", **fields})
    note_start(file, made)
    if cause is not None:
        end = {"end": made.id, "time": ended, "cause": cause, "code": 1, "message": message}
        append_records(file, [end])
    return made


HOLD = """
import sys
from pathlib import Path
from gpt_opt.records.claim import acquire
from gpt_opt.records.run_dir import RunPaths
claim = acquire(RunPaths(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(paths: RunPaths) -> Iterator[subprocess.Popen[str]]:
    """Lets another process own a run, or a sweep, without a heartbeat."""
    command = [sys.executable, "-c", HOLD, str(paths.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def start(code: str, sweep: Sweep, **how: Any) -> subprocess.Popen[Any]:
    """Starts Python code with the folder of a sweep as its argument.

    Ctrl-C reaches it also where the tests run in the background of a shell, and so ignore it themselves.
    """
    command = [sys.executable, "-c", code, str(sweep.root)]
    return subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **how)
