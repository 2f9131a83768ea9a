"""How long a checkpoint holds up a training, against one that waits until it is written.

    python benchmarks/checkpoints.py --layers 8 --width 512 --steps 30 --rounds 3

Pretrains one model three ways by turns in one process: without checkpoints, with one in every fifth step as we write
them, and with the same ones waited for, as a callback of a user that has `on_save` makes it. What is held up is what
training took longer than the one without, for each checkpoint.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hydra import compose, initialize_config_dir
from transformers import TrainerCallback

from gpt_opt.config.schema import register
from gpt_opt.run.resolvers import plain_config, register_resolvers
from gpt_opt.training.interface import Folder, Hooks
from gpt_opt.training.loop import train

EVERY = 5
SIDES = {"without": 0, "beside the steps": EVERY, "waited for": EVERY}


class Waiting(TrainerCallback):
    """Is told of a checkpoint when it is there."""

    def on_save(self, *_: Any, **__: Any) -> None:
        """Does nothing."""


def seconds_of(side: str, options: argparse.Namespace) -> float:
    """Trains once; returns the seconds from the end of the first step to that of the last."""
    params = "training.training_params"
    overrides = ["loss=lm", "model=gpt-tiny", "training=pydoc_text", f"model.config.n_layer={options.layers}"]
    overrides += [f"model.config.n_embd={options.width}", f"model.config.n_head={options.width // 64}"]
    overrides += [
        f"{params}.context_length=128",
        f"{params}.tokens_processed=512",
        f"{params}.val_tokens_processed=512",
    ]
    overrides += [f"{params}.max_steps={options.steps}", f"{params}.eval_every={options.steps + 1}"]
    overrides += [f"{params}.save_every={SIDES[side] or options.steps + 1}", f"{params}.save_total_limit=1"]
    if side == "waited for":
        overrides += [f"callbacks=[{{_target_: {__name__}.Waiting}}]"]
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "hydra_conf"), version_base="1.3"):
        config = plain_config(compose("config", overrides, return_hydra_config=True))
    ends: list[float] = []

    def ended() -> bool:
        ends.append(time.perf_counter())
        return False

    with tempfile.TemporaryDirectory(dir=options.place) as place:
        folder = Folder(Path(place, "checkpoints"), Path(place, "metrics.jsonl"), Path(place, "samples.jsonl"))
        train(config, folder, Hooks(lambda step, total: None, ended, lambda: None))
        sizes = [file.stat().st_size for file in folder.checkpoints.rglob("*") if file.is_file()]
    if side == "without":
        print(f"a checkpoint has {sum(sizes) / 2**20:,.0f} MiB", flush=True)
    return ends[-1] - ends[0]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="of the model (default: 8)")
    parser.add_argument("--width", type=int, default=512, help="of the model (default: 512)")
    parser.add_argument("--steps", type=int, default=30, help="of a training (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side has its turn (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the writer has one more (default: 1)")
    parser.add_argument("--place", help="where the checkpoints go (default: the folder of temporary files)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    register()
    register_resolvers()
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(options.rounds):
        for side in list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]:
            taken[side].append(seconds_of(side, options))
    count = (options.steps - 1) // EVERY  # the last one is waited for by all
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {options.threads} threads")
    print(f"{'checkpoints':<18}{'training, s':>13}{'range':>16}{'held up by each, s':>21}{'range':>16}")
    for side, seconds in taken.items():
        held = [(own - none) / count for own, none in zip(seconds, taken["without"], strict=True)]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        line = f"{side:<18}{statistics.median(seconds):>13.1f}{spread:>16}"
        if side != "without":
            line += f"{statistics.median(held):>21.2f}{f'{min(held):.2f} to {max(held):.2f}':>16}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
