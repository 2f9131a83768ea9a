"""Time and memory of the verbs that look at a whole sweep, at 100, 1,000 and 10,000 runs, and how they grow.

    python benchmarks/scale.py --rounds 3

Each is a process of its own, from its start to its end, in a folder with one sweep of so many runs: `gptopt plan FILE`;
`gptopt submit FILE` up to its call of sbatch (plan, snapshot, sweep directory); what a driver does before it hands out
the first run; `gptopt status`, `gptopt status --json`; `gptopt collect`, for the first time and again. From the driver
on the runs are there as trainings leave them: 80% COMPLETED, 10% FAILED, 10% not begun; each has 20 lines of metrics.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gpt_opt.own_app.app import own_app
from gpt_opt.plan.planner import Planner
from gpt_opt.records.sweep_dir import Sweep, find

ROOT = Path(__file__).resolve().parents[1]
GPTOPT = str(Path(sys.executable).with_name("gptopt"))
STEPS, LINES = 200, 20

_SUBMIT = """
import sys
from pathlib import Path
from gpt_opt.own_app.app import own_app
from gpt_opt.dispatch.submit import Request, prepare
prepare(Request(Path("scale.json"), (), "disbatch", 4, {}, own_app(), Path("sweeps")))
"""

_DRIVER = """
from pathlib import Path
from gpt_opt.dispatch.measure import SpeedMeter
from gpt_opt.dispatch.progress import saved_steps
from gpt_opt.dispatch.reconcile import reconcile
from gpt_opt.dispatch.stages import classify_runs
from gpt_opt.records.sweep_dir import find
sweep = find("scale", Path("sweeps")).part(0)
saved_steps(sweep), reconcile(sweep), classify_runs(sweep).due, SpeedMeter(sweep).measure()
"""

VERBS: Mapping[str, Sequence[str]] = {
    "plan": (GPTOPT, "plan", "scale.json"),
    "submit": (sys.executable, "-c", _SUBMIT),
    "driver": (sys.executable, "-c", _DRIVER),
    "status": (GPTOPT, "status", "scale"),
    "status --json": (GPTOPT, "status", "scale", "--json"),
    "collect": (GPTOPT, "collect", "scale", "-o", "runs.parquet"),
    "collect again": (GPTOPT, "collect", "scale", "-o", "runs.parquet"),
}


class Taken(NamedTuple):
    """What a process took: wall seconds, CPU seconds and peak memory in MiB, those of its children left out."""

    seconds: float
    cpu_s: float
    peak_mb: float


def measure(command: Sequence[str], folder: Path) -> Taken:
    """Runs a command to its end; status ends with 1 where runs failed."""
    began = time.perf_counter()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1) or b"Traceback" in (folder / "output").read_bytes():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {(folder / 'output').read_text()}")
    return Taken(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def write_runs(sweep: Sweep) -> None:
    """Writes what slots and trainings would have left: attempts, states, configs, metrics and summaries."""
    planner, draw = Planner(own_app(ROOT / "hydra_conf")), random.Random(0)
    for run in sweep.runs:
        if run.index % 10 == 9:
            continue
        is_done = run.index % 10 != 8
        begin = 1_760_000_000 + 60 * (run.index // 4)
        started, ended = (datetime.fromtimestamp(second, UTC).isoformat() for second in (begin, begin + 60))
        root = Path(run.run_dir)
        root.mkdir(parents=True)
        error = None if is_done else {"type": "RuntimeError", "message": "the loss is NaN", "traceback": ""}
        state: dict[str, Any] = {
            "run_id": run.run_id,
            "state": "COMPLETED" if is_done else "FAILED",
            "attempt": 1,
            "host": "n1",
        }
        state |= {"started": started, "updated": ended, "step": STEPS, "total_steps": STEPS, "error": error}
        steps = range(STEPS // LINES, STEPS + 1, STEPS // LINES)
        rows = [{"step": step, "time": begin + step / 4, "loss": draw.random(), "kl": draw.random()} for step in steps]
        owner = {"host": "n1", "machine": "elsewhere", "pid": 1, "pid_start": 1}
        start: dict[str, Any] = {
            "start": "a",
            "time": started,
            "session": "1.0",
            "node": "n1",
            "gpus": [],
            "mem_gb": None,
        }
        end = {"end": "a", "time": ended, "cause": "completed" if is_done else "exception", "code": 0, "message": ""}
        sweep.attempts(run).write_text(f"{json.dumps({**start, 'mem_gb': None, 'owner': owner})}\n{json.dumps(end)}\n")
        (root / "state.json").write_text(json.dumps(state))
        (root / "config.json").write_text(json.dumps(planner.config(run.overrides)))
        (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "provenance.json").write_text(json.dumps({"git_commit": "0" * 40, "git_dirty": False, "packages": {}}))
        if is_done:
            final = {"loss": rows[-1]["loss"], "kl": rows[-1]["kl"]}
            summary = {"run_id": run.run_id, "attempt": 1, "step": STEPS, "metrics": final, "time_s": 50.0}
            (root / "summary.json").write_text(json.dumps(summary | {"tokens": 64 * STEPS, "device": "cpu"}))


def measure_all(runs: int, rounds: int) -> dict[str, Taken]:
    """Returns the medians of what each verb takes in a sweep of so many runs."""
    found: dict[str, list[Taken]] = {verb: [] for verb in VERBS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            grid = {"loss.beta": {"linspace": [0.05, 0.5, 10]}, "seed": {"range": [0, runs // 10]}}
            (folder / "scale.json").write_text(json.dumps({"name": "scale", "grid": grid}))
            for verb, command in VERBS.items():
                found[verb].append(measure(command, folder))
                if verb == "submit":
                    write_runs(find("scale", folder / "sweeps"))
    return {
        verb: Taken(*(statistics.median(values) for values in zip(*taken, strict=True)))
        for verb, taken in found.items()
    }


def main() -> None:
    """Prints a row for each verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000], help="runs (multiples of 10)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured (default: 3)")
    options = parser.parse_args()
    found = {size: measure_all(size, options.rounds) for size in options.sizes}
    print(f"{platform.machine()}, {os.cpu_count()} cores; medians of {options.rounds} rounds")
    heads = [f"{size:,} runs: s, CPU s, MiB" for size in options.sizes]
    print("| verb | " + " | ".join(heads) + " | growth of CPU time, of memory (runs to the power of) |")
    print("|---" * (len(heads) + 2) + "|")
    first, last = found[options.sizes[0]], found[options.sizes[-1]]
    decades = math.log(options.sizes[-1] / options.sizes[-2]) if len(options.sizes) > 1 else math.nan
    before = found[options.sizes[-2]] if len(options.sizes) > 1 else first
    for verb in VERBS:
        cells = [
            f"{taken[verb].seconds:.2f}, {taken[verb].cpu_s:.2f}, {taken[verb].peak_mb:,.0f}"
            for taken in found.values()
        ]
        powers = (math.log(end / begin) / decades for end, begin in zip(last[verb][1:], before[verb][1:], strict=True))
        print(f"| {verb} | {' | '.join(cells)} | {', '.join(f'{power:.2f}' for power in powers)} |")


if __name__ == "__main__":
    main()
