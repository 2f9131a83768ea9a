"""Points per second of `gptopt plan` of another application against `hydra.compose`, structured configs and a resolver.

    python benchmarks/plan/app.py

Ours includes the process of the application that composes its configs, which starts, imports the application, plans
and hands the plan back. Hydra only composes, in a process that has registered the same, on `--reference` points. Each
of its configs must equal ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gpt_opt.app.settings import read_settings
from gpt_opt.app.toml_app import app_of
from gpt_opt.plan.planner_of import planner_of
from gpt_opt.records.planned_configs import planned_config, text_of

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers.apps import copied  # noqa: E402

SETTINGS = '[app]\nscript = "train.py"\nconfig_path = "conf"\nversion_base = "1.3"\nregisters = true\n'

HYDRA = """
import json, sys, time
import schema
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

schema.register()
points = json.load(sys.stdin)
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    compose("config", overrides=points[0])
    started = time.perf_counter()
    found = [OmegaConf.to_container(compose("config", overrides=point), resolve=True) for point in points]
print(json.dumps([time.perf_counter() - started, found]))
"""


def measure(size: int, reference: int, folder: Path) -> tuple[float, float]:
    """Returns the points per second of ours and of Hydra's for a grid of `size` points, a multiple of 100."""
    app = copied("structured", folder)
    (app / "gptopt.toml").write_text(SETTINGS)
    grid = {"optimizer.lr": {"linspace": [0.01, 0.5, 10]}, "width": {"range": [1, 11]}}
    (app / "g.json").write_text(json.dumps({"grid": {**grid, "steps": {"range": [0, size // 100]}}}))
    started = time.perf_counter()
    plan = planner_of(app_of(read_settings(app / "gptopt.toml"))).plan(app / "g.json", sweeps=folder / "sweeps")
    ours_s = time.perf_counter() - started
    file = folder / "planned.jsonl"
    file.write_text(text_of((run.run_id, changes) for run, changes in zip(plan.runs, plan.configs, strict=True)))
    sample = plan.runs[:: max(1, len(plan.runs) // reference)][:reference]
    done = subprocess.run(
        [sys.executable, "-c", HYDRA, str(app / "conf")],
        input=json.dumps([run.overrides for run in sample]),
        cwd=app,
        capture_output=True,
        text=True,
        check=True,
    )
    hydra_s, configs = json.loads(done.stdout)
    for run, config in zip(sample, configs, strict=True):
        assert json.loads(json.dumps(planned_config(file, run.run_id))) == config, run.overrides
    return plan.points / ours_s, len(sample) / hydra_s


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000, 100000], help="points of the grids")
    parser.add_argument("--reference", type=int, default=40, help="points that hydra.compose is timed on")
    options = parser.parse_args(arguments)
    print(" points  plan, points/s  hydra.compose, points/s  ratio")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            ours, hydra = measure(size, options.reference, Path(folder))
        print(f"{size:>7}  {ours:>14,.0f}  {hydra:>23.1f}  {ours / hydra:>5,.0f}")


if __name__ == "__main__":
    main()
