"""Points per second of `gpt_opt.plan.compose` against `hydra.compose`: same grid, same process, results equal.

    python benchmarks/plan/compose.py hydra_conf
    python benchmarks/plan/compose.py CONFIG_DIR --schema my_module:register --axes '{"seed": [0, 1]}'

The grid is the product of the axes; a run of N points is a seeded sample of it in random order, the worst order for any
cache. Hydra composes `--reference` of these points, and each of its configs must equal ours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import random
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gpt_opt.plan.compose.composer import Composed, Composer

Axes = Mapping[str, Sequence[Any]]

AXES: Axes = {
    "optimizer": ["adamw", "rmsprop"],
    "loss.beta": [round(0.01 * i, 2) for i in range(1, 11)],
    "optimizer.optimizer_params.lr": [round(1e-5 * i, 5) for i in range(1, 11)],
    "training.training_params.max_steps": list(range(100, 1100, 100)),
    "data.dataset.max_samples": list(range(100, 600, 100)),
    "seed": list(range(20)),
}


def sample(axes: Axes, count: int) -> Iterator[tuple[str, ...]]:
    """Yields `count` distinct points of the product of the axes in a fixed random order, without holding them."""
    sizes = [len(values) for values in axes.values()]
    for number in random.Random(0).sample(range(math.prod(sizes)), count):
        point = []
        for (key, values), size in zip(axes.items(), sizes, strict=True):
            number, index = divmod(number, size)
            point.append(f"{key}={values[index]}")
        yield tuple(point)


def time_hydra(config_dir: Path, points: Sequence[Sequence[str]]) -> tuple[float, list[str]]:
    """Returns the seconds that hydra.compose takes for these points, and its configs as text."""
    found = []
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        compose("config", overrides=list(points[0]))
        start = time.perf_counter()
        for point in points:
            config = compose("config", overrides=list(point))
            found.append(repr(OmegaConf.to_container(config, resolve=True, enum_to_str=True)))
        return time.perf_counter() - start, found


def time_ours(composer: Composer, axes: Axes, count: int) -> float:
    """Returns the seconds that a Composer takes for a stream of points whose configs are dropped as they come."""
    start = time.perf_counter()
    for result in composer.compose_many(sample(axes, count)):
        if not isinstance(result, Composed):
            raise SystemExit(f"{result.overrides}: {result.error}")
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config_dir", type=Path)
    parser.add_argument("--schema", default="gpt_opt.config.schema:register", help="module:function that registers it")
    parser.add_argument("--pure", nargs="*", default=[], help="custom resolvers that are pure functions")
    parser.add_argument("--axes", type=json.loads, default=AXES, help="JSON object of axes")
    parser.add_argument("--reference", type=int, default=100, help="points that Hydra composes")
    args = parser.parse_args()
    module, _, function = args.schema.partition(":")
    getattr(importlib.import_module(module), function)()
    config_dir = args.config_dir.resolve()
    total = math.prod(len(values) for values in args.axes.values())

    points = list(sample(args.axes, min(args.reference, total)))
    hydra_s, expected = time_hydra(config_dir, points)
    ours = Composer(config_dir, pure_resolvers=args.pure)
    configs = [result.config for result in ours.compose_many(points) if isinstance(result, Composed)]
    if [repr(config) for config in configs] != expected:
        raise SystemExit("the configs differ from Hydra's")
    hydra_rate = len(points) / hydra_s
    leaves = sum(not isinstance(value, dict) for value in _values(configs[0]))
    print(f"{config_dir}: {leaves} leaves, {total} points in the grid; {len(points)} configs equal Hydra's")
    print(f"hydra.compose         {hydra_rate:12.1f} points/s   ({1000 * hydra_s / len(points):.1f} ms a point)")
    for count in (100, 1_000, 10_000, 100_000):
        composer = Composer(config_dir, pure_resolvers=args.pure)
        took = time_ours(composer, args.axes, min(count, total))
        rate = min(count, total) / took
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"Composer {count:12,d} {rate:12.1f} points/s   {rate / hydra_rate:8.1f}x   {took:7.2f} s   "
            f"peak {peak_mb:.0f} MB   fast {composer.fast}, by Hydra {composer.slow.total()}"
        )


def _values(tree: Any) -> Iterator[Any]:
    for value in tree.values():
        yield value
        if isinstance(value, dict):
            yield from _values(value)


if __name__ == "__main__":
    main()
