"""From the start of a run by its slot to its first optimizer step: warm slots against a new process for each run.

    python benchmarks/start.py --runs 6 --rounds 3

Both sides work through the same sweep on this machine, one run at a time, by turns: `gptopt drive` and
`gptopt drive --cold`. The first run of a warm slot starts its process, and is told apart from those after it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

BASE = {
    "loss": "lm",
    "model": "gpt-tiny",
    "training": "pydoc_text",
    "training.training_params.context_length": 64,
    "training.training_params.tokens_processed": 256,
    "training.training_params.val_tokens_processed": 256,
    "training.training_params.max_steps": 2,
    "training.training_params.log_every": 1,
    "training.training_params.eval_every": 2,
    "training.training_params.save_every": 2,
}


def seconds_to_first_step(folder: Path, runs: int, *flags: str) -> tuple[list[float], float]:
    """Works through the sweep once.

    Returns:
        For each run, in order, the seconds from its slot's start of it to the log line of its first step; and the
        seconds of the whole sweep.
    """
    folder.mkdir()
    (folder / "start.json").write_text(json.dumps({"base": BASE, "grid": {"seed": list(range(runs))}}))
    gptopt = Path(sys.executable).with_name("gptopt")
    begun = datetime.now().astimezone()
    command = [str(gptopt), "drive", "start.json", "--slots", "1", *flags]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    whole = (datetime.now().astimezone() - begun).total_seconds()
    found = []
    for index in range(runs):
        plan = (folder / "sweeps" / "start" / "1" / "plan.jsonl").read_text().splitlines()[index]
        attempts = folder / "sweeps" / "start" / "1" / "attempts" / f"{index}.jsonl"
        start = next(json.loads(line) for line in attempts.read_text().splitlines() if line.strip())["time"]
        rows = [json.loads(line) for line in (Path(json.loads(plan)["run_dir"]) / "metrics.jsonl").open()]
        first = next(row["time"] for row in rows if row["step"] == 1)
        found.append(first - datetime.fromisoformat(start).timestamp())
    return found, whole


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6, help="runs of the sweep (default: 6)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side has its turn (default: 3)")
    options = parser.parse_args()
    cold: list[float] = []
    first: list[float] = []
    warm: list[float] = []
    wholes: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.rounds):
            for side in ("cold", "warm") if number % 2 == 0 else ("warm", "cold"):
                flags = ["--cold"] if side == "cold" else []
                found, whole = seconds_to_first_step(Path(place, f"{side}{number}"), options.runs, *flags)
                wholes[side].append(whole)
                if side == "cold":
                    cold += found
                else:
                    first, warm = [*first, found[0]], [*warm, *found[1:]]
    print(f"{platform.machine()}, {os.cpu_count()} cores; {options.rounds} rounds of {options.runs} runs")
    print("| start of a run to its first step | median s | least | most | ratio |")
    print("|---|---|---|---|---|")
    middle = statistics.median(cold)
    for name, values in {"cold": cold, "warm, first of its slot": first, "warm": warm}.items():
        own = statistics.median(values)
        print(f"| {name} | {own:.2f} | {min(values):.2f} | {max(values):.2f} | {middle / own:.1f} |")
    whole_cold, whole_warm = (statistics.median(wholes[side]) for side in ("cold", "warm"))
    print(f"the whole sweep: cold {whole_cold:.1f} s, warm {whole_warm:.1f} s, ratio {whole_cold / whole_warm:.1f}")


if __name__ == "__main__":
    main()
