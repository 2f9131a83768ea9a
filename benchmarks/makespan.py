"""A sweep of short and one of medium DPO runs on four slots of a real Slurm: ours against what else starts runs there.

    python benchmarks/makespan.py --short 12 --medium 0
    python benchmarks/makespan.py

Four sides train the same points with the same run_hydra.py, one after the other, in another order each round:

- ours: `gptopt submit`
- ours, cold: `gptopt submit --cold`, a new process for each run
- hydra-submitit-launcher: `run_hydra.py -m hydra/launcher=submitit_slurm`, a job array of which four run at a time
- disBatch, a process a task: one line `run_hydra.py KEY=VALUE...` a run

The Slurm is that of the tests (`tests/cluster`): all daemons real, its four nodes on the cores of this machine. All
sides share the caches of configs and tokens, so what is compared is how runs are started. Sweep efficiency is the sum
of `time_s` over the summaries (training, evaluations and checkpoints) over slots times makespan; the makespan is from
the call that submits to the last summary.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.cluster import config  # noqa: E402  (no part of the package)
from tests.cluster.cluster import Cluster, guarded  # noqa: E402

SLOTS = 4
PARAMS = "training.training_params"
BETAS = (0.05, 0.1, 0.2, 0.5)

SHORT: Mapping[str, Any] = {
    "data": "jsonl",
    "model.archive": None,
    "model.config.n_layer": 2,
    "model.config.n_embd": 64,
    "model.config.n_head": 2,
    f"{PARAMS}.max_length": 64,
    f"{PARAMS}.max_prompt_length": 32,
    f"{PARAMS}.batch_size": 8,
    f"{PARAMS}.max_steps": 20,
    f"{PARAMS}.log_every": 5,
    f"{PARAMS}.eval_every": 20,
    f"{PARAMS}.save_every": 20,
}
MEDIUM: Mapping[str, Any] = {f"{PARAMS}.batch_size": 8, f"{PARAMS}.log_every": 10}
"""The embedded model and data."""


@dataclass(frozen=True)
class Sweep:
    """Runs to make.

    Attributes:
        name: What to call them.
        base: Overrides of all of them.
        runs: How many.
    """

    name: str
    base: Mapping[str, Any]
    runs: int

    def grid(self) -> dict[str, list[Any]]:
        """Returns betas and seeds, as many points as there are runs."""
        betas = BETAS if self.runs % len(BETAS) == 0 else BETAS[:1]
        return {"loss.beta": list(betas), "seed": list(range(self.runs // len(betas)))}

    def points(self) -> list[list[str]]:
        """Returns the overrides of every point."""
        grid = self.grid()
        base = [f"{key}={'null' if value is None else value}" for key, value in self.base.items()]
        return [[*base, f"loss.beta={beta}", f"seed={seed}"] for beta in grid["loss.beta"] for seed in grid["seed"]]


@dataclass(frozen=True)
class Measured:
    """What a side did: makespan and first result in seconds, useful training seconds over those of the slots."""

    makespan_s: float
    first_s: float
    efficiency: float


Start = Callable[[Sweep, Path], Sequence[str]]


def write_sweep(sweep: Sweep, folder: Path) -> None:
    """Writes the sweep file."""
    (folder / "sweep.json").write_text(json.dumps({"name": "sweep", "base": sweep.base, "grid": sweep.grid()}))


def ours(*flags: str) -> Start:
    """Returns the command of our side."""

    def start(sweep: Sweep, folder: Path) -> Sequence[str]:
        write_sweep(sweep, folder)
        return [program("gptopt"), "submit", "sweep.json", "--slots", str(SLOTS), *flags]

    return start


def submitit(sweep: Sweep, folder: Path) -> Sequence[str]:
    """Returns the command of Hydra's launcher; it returns when all runs have ended."""
    grid = [f"{key}={','.join(map(str, values))}" for key, values in sweep.grid().items()]
    base = [f"{key}={'null' if value is None else value}" for key, value in sweep.base.items()]
    launcher = "hydra.launcher"
    slurm = [f"{launcher}.array_parallelism={SLOTS}", f"{launcher}.timeout_min=600", f"{launcher}.cpus_per_task=1"]
    return [sys.executable, str(ROOT / "run_hydra.py"), "-m", "hydra/launcher=submitit_slurm", *slurm, *base, *grid]


def disbatch(sweep: Sweep, folder: Path) -> Sequence[str]:
    """Returns the command that submits a disBatch with a new process for each task."""
    script = shlex.join([sys.executable, str(ROOT / "run_hydra.py")])
    lines = [
        f"cd {shlex.quote(str(folder))} && {script} {shlex.join(point)} > {index}.out 2>&1\n"
        for index, point in enumerate(sweep.points())
    ]
    (folder / "tasks").write_text("".join(lines))
    return ["sbatch", "-n", str(SLOTS), "-o", "disbatch.out", "--wrap", f"{program('disBatch')} tasks"]


SIDES: Mapping[str, Start] = {
    "ours": ours(),
    "ours, cold": ours("--cold"),
    "hydra-submitit-launcher": submitit,
    "disBatch, a process a task": disbatch,
}


def program(name: str) -> str:
    """Returns the path of a program of this Python."""
    return str(Path(sys.executable).with_name(name))


def measure(cluster: Cluster, sweep: Sweep, start: Start, folder: Path, limit_s: float) -> Measured:
    """Lets a side make a sweep.

    Raises:
        SystemExit: If it does not within `limit_s`.
    """
    folder.mkdir(parents=True)
    (tmp := cluster.home / "tmp").mkdir(exist_ok=True)
    bin_dir = str(Path(sys.executable).parent)
    environment = {
        **cluster.env,
        "PATH": f"{bin_dir}:{cluster.env['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(tmp),
    }
    begun, end = time.time(), time.monotonic() + limit_s
    with (folder / "submit.out").open("wb") as output:
        process = subprocess.Popen(
            start(sweep, folder), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    while len(done := list((folder / "outputs").glob("*/*/*/*/summary.json"))) < sweep.runs:
        if time.monotonic() > end or process.poll():
            process.terminate()
            said = (folder / "submit.out").read_text(errors="replace")[-2000:]
            why = f"after {limit_s:.0f} s" if process.returncode is None else f"and it ended with {process.returncode}"
            raise SystemExit(f"{folder}: {len(done)} of {sweep.runs} runs are done {why}\n{said}")
        time.sleep(0.1)
    times = sorted(file.stat().st_mtime for file in done)
    useful = sum(json.loads(file.read_text())["time_s"] for file in done)
    process.wait()
    while cluster.run("squeue", "-h").strip():
        time.sleep(0.2)
    makespan = times[-1] - begun
    return Measured(makespan, times[0] - begun, useful / (SLOTS * makespan))


def table(name: str, sweep: Sweep, found: Mapping[str, Sequence[Measured]]) -> None:
    """Prints what was measured, medians over the rounds."""
    print(f"\n{sweep.runs} {name} runs on {SLOTS} slots")
    print("| side | makespan s | of ours | s a run and slot | first result s | sweep efficiency |")
    print("|---|---|---|---|---|---|")
    medians = {
        side: [statistics.median(values) for values in zip(*map(_values, items), strict=True)]
        for side, items in found.items()
    }
    first = next(iter(medians.values()))[0]
    for side, (makespan, first_s, efficiency) in medians.items():
        each = makespan * SLOTS / sweep.runs
        print(f"| {side} | {makespan:.1f} | {makespan / first:.2f} | {each:.2f} | {first_s:.1f} | {efficiency:.2f} |")


def _values(item: Measured) -> tuple[float, float, float]:
    return item.makespan_s, item.first_s, item.efficiency


def write_pairs(file: Path) -> None:
    """Writes the pairs of the short runs."""
    rows = [
        {"prompt": f"Question {number}: what is {number} plus one?\n\n", "chosen": f" {number + 1}", "rejected": " no"}
        for number in range(80)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=int, default=200, help="short runs of 20 steps (default: 200; 0 for none)")
    parser.add_argument("--medium", type=int, default=24, help="runs of about a minute (default: 24; 0 for none)")
    parser.add_argument("--medium-steps", type=int, default=60, help="steps of a medium run (default: 60)")
    parser.add_argument("--rounds", type=int, default=1, help="times that each side has its turn (default: 1)")
    parser.add_argument("--sides", default=",".join(map(str, range(len(SIDES)))), help="by number (default: all)")
    parser.add_argument("--limit-s", type=float, default=3600, help="most seconds of one side (default: 3600)")
    options = parser.parse_args()
    sides = {name: SIDES[name] for name in (list(SIDES)[int(number)] for number in options.sides.split(","))}
    print(f"{platform.machine()}, {os.cpu_count()} cores; rounds: {options.rounds}")
    config.MAX_ARRAY_SIZE = 1001  # Slurm's default: that of the tests is to be exceeded
    with tempfile.TemporaryDirectory(prefix="makespan-") as place, guarded(Path(place, "cluster")) as cluster:
        write_pairs(pairs := Path(place, "pairs.jsonl"))
        steps = {f"{PARAMS}.{key}": options.medium_steps for key in ("max_steps", "eval_every", "save_every")}
        sweeps = [
            Sweep("short", {**SHORT, "data.dataset.path": str(pairs)}, options.short),
            Sweep("medium", {**MEDIUM, **steps}, options.medium),
        ]
        for sweep in (item for item in sweeps if item.runs):
            found: dict[str, list[Measured]] = {name: [] for name in sides}
            for number in range(options.rounds):
                for side in list(sides) if number % 2 == 0 else reversed(sides):
                    cluster.reset()
                    folder = Path(place, sweep.name, f"{number}-{list(SIDES).index(side)}")
                    measured = measure(cluster, sweep, sides[side], folder, options.limit_s)
                    print(f"{sweep.name}, {side}: {measured}", file=sys.stderr)
                    found[side].append(measured)
            table(sweep.name, sweep, found)


if __name__ == "__main__":
    main()
