"""Seconds to load runs, ours against a plain loop over the same directories that makes the same frames.

    python benchmarks/load/load.py

Writes `--runs` finished runs (0.1 MB each) unless `--folder` has them already, and loads them: for the first time,
again, after 10 of them have changed, after a new process has begun each time. The plain loop is what one writes in a
notebook: `OmegaConf.load` of the config, `json.load` of the rest, `pandas.read_json` of the metrics; it reads the first
`--peer` runs, as it takes minutes for all, and its frames must equal ours. Imports do not count. Files are in the
page cache in every measurement: what is measured is reading them, not a disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from generate import write_run
from omegaconf import OmegaConf

from analysis import load_metrics, load_runs
from analysis.cache import FOLDER, MARGIN_S

CHANGED = 10


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        inner = {f"{key}.{name}": item for name, item in _flat(value).items()} if isinstance(value, dict) else None
        flat |= inner or {key: "{}" if value == {} else value}
    return flat


def plain_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """The plain loop for a frame of runs."""
    rows = []
    for folder in folders:
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=True)
        state, summary = json.load((folder / "state.json").open()), json.load((folder / "summary.json").open())
        row = {name: state[name] for name in ("run_id", "state", "step", "total_steps", "attempt")}
        row |= {name: summary[name] for name in ("time_s", "tokens", "peak_memory_mb")} | {"path": str(folder)}
        rows.append({**_flat(config), **summary["metrics"], **row})
    return pd.DataFrame(rows)


def plain_metrics(folders: Sequence[Path]) -> pd.DataFrame:
    """The plain loop for a frame of metrics."""
    frames = []
    for folder in folders:
        rows = pd.read_json(folder / "metrics.jsonl", lines=True)
        frames.append(rows.groupby("step", as_index=False).last().assign(path=str(folder)))
    return pd.concat(frames, ignore_index=True)


def check_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Refuses frames that differ; pandas.read_json is exact to 15 digits."""
    for name in theirs.columns:
        own, other = ours[name].tolist(), theirs[name].tolist()
        if name == "time":
            own = (ours[name].astype("int64") / 1e6).tolist()
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in other):
            assert np.allclose(np.array(own, float), np.array(other, float), rtol=1e-12, equal_nan=True), name
        else:
            assert [None if value is pd.NA else value for value in own] == other, name


def measured(call: Callable[[], pd.DataFrame]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Returns a frame with wall and CPU seconds of this process and its children, and the peak memory in MiB."""
    started = time.perf_counter()
    frame = call()
    wall = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return frame, {"wall": wall, "cpu": sum(item.ru_utime + item.ru_stime for item in used) - BEFORE_S, "mb": _peak()}


def _peak() -> float:
    """Returns the most memory that this process and a child had, in MiB; the pages of both count twice."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


BEFORE_S = 0.0
"""CPU seconds before what is measured: imports."""


def _one(what: str, outputs: Path, peer: int) -> dict[str, float]:
    global BEFORE_S
    folders = sorted((outputs / "tiny-gpt2" / "pydoc" / "adamw").iterdir())[:peer]
    calls: dict[str, Callable[[], pd.DataFrame]] = {
        "load_runs": lambda: load_runs(outputs),
        "load_metrics": lambda: load_metrics(outputs),
        "plain loop, runs": lambda: plain_runs(folders),
        "plain loop, metrics": lambda: plain_metrics(folders),
    }
    BEFORE_S = _cpu()
    frame, numbers = measured(calls[what])
    if what.startswith("plain"):
        check_equal(calls[f"load_{what.rpartition(' ')[2]}"]().pipe(_first, folders), frame)
    return {**numbers, "rows": float(len(frame)), "runs": float(frame["path"].nunique())}


def _first(frame: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    return frame[frame["path"].isin({str(folder) for folder in folders})].reset_index(drop=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="runs to write")
    parser.add_argument("--peer", type=int, default=500, help="runs of them that the plain loop reads")
    parser.add_argument("--folder", type=Path, help="where the runs are, or are to be")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(_one(options.one, options.folder, options.peer)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        outputs = options.folder or Path(temporary, "outputs")
        if not outputs.exists():
            for index in range(options.runs):
                write_run(outputs, index)
        shutil.rmtree(outputs / FOLDER, ignore_errors=True)
        _measure_all(outputs, options.peer)


def _measure_all(outputs: Path, peer: int) -> None:
    def line(title: str, what: str) -> None:
        command = [sys.executable, __file__, "--one", what, "--folder", str(outputs), "--peer", str(peer)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        cells = f"{found['runs']:>8,.0f} {found['rows']:>10,.0f} {found['wall']:>9.2f} {found['cpu']:>9.2f}"
        print(f"{title:<34} {cells} {1000 * found['cpu'] / found['runs']:>10.3f} {found['mb']:>9,.0f}", flush=True)

    print(f"{'':<34} {'runs':>8} {'rows':>10} {'wall s':>9} {'CPU s':>9} {'CPU ms/run':>10} {'peak MiB':>9}")
    time.sleep(MARGIN_S + 1)  # younger files are read each time
    for what in ("load_runs", "load_metrics"):
        line(f"{what}, the first time", what)
        line(f"{what}, again", what)
        line(f"{what}, again", what)
    for index in range(CHANGED):
        write_run(outputs, 7 * index)
    for what in ("load_runs", "load_metrics"):
        line(f"{what}, {CHANGED} runs changed", what)
    for what in ("plain loop, runs", "plain loop, metrics"):
        line(what, what)


if __name__ == "__main__":
    main()
