"""What the Trainer of transformers writes: trainer_state.json, in its output folder or in its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from analysis.files import read_object, whole
from analysis.foreign.parts import Part
from gpt_opt.app.sources.trainer_state import NAME, rows
from gpt_opt.records.run_dir import checkpoints
from gpt_opt.records.state import State

_CONFIG = ("max_steps", "num_train_epochs", "train_batch_size", "eval_steps", "logging_steps", "save_steps")


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether a Trainer wrote into a folder with these names."""
    steps = (name for name in names if name.startswith("checkpoint-"))
    return NAME in names or any(os.path.isfile(f"{folder}/{name}/{NAME}") for name in steps)


def read(folder: str) -> Part:
    """Reads the log of a training, that of its newest checkpoint where there is none of its end."""
    root, part = Path(folder), Part("Trainer")
    newest = [root, *reversed(checkpoints(root))]
    state = next((found for place in newest if (found := read_object(place / NAME, part.problems)) is not None), {})
    part.fixed = {"step": whole(state.get("global_step")), "total_steps": whole(state.get("max_steps"))}
    if part.fixed["step"] and part.fixed["step"] == part.fixed["total_steps"]:
        part.fixed["state"] = str(State.COMPLETED)
    config = {name: state[name] for name in _CONFIG if name in state}
    part.config = {"trainer": config} if config else {}
    for row in rows(state):
        part.take(row)
        if "train_runtime" in row["values"]:
            part.fixed["time_s"] = row["values"]["train_runtime"]
    part.missing.append("its arguments, which are in training_args.bin, a pickle, and so not read")
    return part
