"""Points per second of the whole of `gptopt plan` against `hydra.compose`: same grid, same process, results equal.

    python benchmarks/plan/plan.py

Ours reads the sweep file, composes, checks, hashes and compares every point with what exists; Hydra only composes, on
`--reference` points of the same grid, since it takes minutes for all. Each of its configs must equal ours, and the run
ids made of both too. Every size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gpt_opt.config.schema import register
from gpt_opt.own_app.app import own_app
from gpt_opt.plan.planner import Planner
from gpt_opt.records.run_id import run_id
from gpt_opt.run.resolvers import plain_config, register_resolvers

CONFIG_DIR = Path(__file__).resolve().parents[2] / "hydra_conf"


def grid(size: int) -> dict[str, Any]:
    """Returns a sweep of `size` points over one group axis and five value axes; `size` is a multiple of 100."""
    return {
        "optimizer": ["adamw", "rmsprop"],
        "loss.beta": {"linspace": [0.05, 0.5, 5]},
        "loss.label_smoothing": [0.0, 0.1],
        "optimizer.optimizer_params.lr_schedule": ["constant", "warm-up-cosine"],
        "training.training_params.max_grad_norm": [0.5, 1.0] if size >= 1000 else [1.0],
        "seed": {"range": [0, max(1, size // (80 if size >= 1000 else 40))]},
    }


def measure(size: int, reference: int, folder: Path) -> dict[str, float]:
    """Plans one grid and composes a sample of it with Hydra."""
    file = folder / "sweep.json"
    file.write_text(json.dumps(grid(size)))
    register()
    register_resolvers()
    started = time.perf_counter()
    planner = Planner(own_app(CONFIG_DIR))
    plan = planner.plan(file, [f"paths.output_dir={folder}"], sweeps=folder)
    ours_s = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sample = plan.runs[:: max(1, len(plan.runs) // reference)][:reference]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        compose("config", overrides=list(sample[0].overrides))
        started = time.perf_counter()
        theirs = [compose("config", overrides=list(run.overrides)) for run in sample]
        plain = [cast("dict[str, Any]", OmegaConf.to_container(c, resolve=True, enum_to_str=True)) for c in theirs]
        hydra_s = (time.perf_counter() - started) / len(sample)
    for run, config, composed in zip(sample, plain, theirs, strict=True):
        assert planner.config(run.overrides) == config, run.overrides
        assert run.run_id == run_id(plain_config(composed)), run.overrides
    points = plan.points
    return {"points": points, "ours": points / ours_s, "hydra": 1 / hydra_s, "seconds": ours_s, "peak_mb": peak_mb}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[120, 1040, 10000, 100000], help="points of the grids")
    parser.add_argument("--reference", type=int, default=40, help="points that hydra.compose is timed on")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.sizes[0], options.reference, Path(folder))))
        return
    titles = ("plan, points/s", "hydra.compose, points/s", "ratio", "seconds", "peak MiB")
    print(" points  " + "  ".join(titles))
    for size in options.sizes:
        command = [sys.executable, __file__, "--one", "--sizes", str(size), "--reference", str(options.reference)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        ratio = found["ours"] / found["hydra"]
        cells = (f"{found['ours']:,.0f}", f"{found['hydra']:.1f}", f"{ratio:,.0f}", f"{found['seconds']:.2f}")
        row = zip((*cells, f"{found['peak_mb']:,.0f}"), titles, strict=True)
        print(f"{found['points']:>7.0f}  " + "  ".join(cell.rjust(len(title)) for cell, title in row))


if __name__ == "__main__":
    main()
