"""What the Trainer of transformers writes: trainer_state.json, in its output folder or in its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from analysis.files import Problems, number, read_object, whole
from analysis.foreign.parts import Part, our_name
from gpt_opt.records.run_dir import checkpoints
from gpt_opt.records.state import State

_STATE = "trainer_state.json"
_CONFIG = ("max_steps", "num_train_epochs", "train_batch_size", "eval_steps", "logging_steps", "save_steps")


def is_one(folder: str, names: Collection[str]) -> bool:
    """Returns whether a Trainer wrote into a folder with these names."""
    steps = (name for name in names if name.startswith("checkpoint-"))
    return _STATE in names or any(os.path.isfile(f"{folder}/{name}/{_STATE}") for name in steps)


def read(folder: str) -> Part:
    """Reads the log of a training, that of its newest checkpoint where there is none of its end."""
    root, problems, part = Path(folder), Problems(), Part("Trainer")
    newest = [root, *reversed(checkpoints(root))]
    state = next((found for place in newest if (found := read_object(place / _STATE, problems)) is not None), {})
    part.fixed = {"step": whole(state.get("global_step")), "total_steps": whole(state.get("max_steps"))}
    if part.fixed["step"] and part.fixed["step"] == part.fixed["total_steps"]:
        part.fixed["state"] = str(State.COMPLETED)
    part.config = {"trainer": {name: state[name] for name in _CONFIG if name in state}}
    rows = state.get("log_history")
    for row in rows if isinstance(rows, list) else []:
        _log(row, part)
    part.missing.append("its arguments, which are in training_args.bin, a pickle, and so not read")
    part.problems = problems.found
    return part


def _log(row: Any, part: Part) -> None:
    step = whole(row.get("step")) if isinstance(row, dict) else None
    if step is None or step < 0:
        return
    if "train_runtime" in row:
        part.fixed["time_s"] = number(row["train_runtime"])
    for name, value in row.items():
        if name != "step" and number(value) is not None:
            part.log(step, our_name(name), value)
