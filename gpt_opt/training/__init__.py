"""The work itself: model, data, loss, optimizer, and the loop of transformers.Trainer around them.

Input: a resolved config and two places to write to. Output: checkpoints, metrics.jsonl and a `Result`. Nothing in
here knows of Slurm, sweeps or run identity. torch and transformers are imported nowhere else.
"""

import os
from importlib import import_module
from typing import Any

from gpt_opt.training import lean_imports

# Threads that wait for each other by spinning starve whoever shares the cores: two runs of two threads on two cores
# lose half of their speed to it, a run alone loses nothing. It is read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
lean_imports.install()

_API = frozenset({"run_training", "run_sft", "run_dpo", "TrainingConfig", "DPOConfig", "PreferenceDatasetConfig"})


def __getattr__(name: str) -> Any:
    """Offers the names of `gpt_opt.api` to users, who look for them here; nothing in this package uses them."""
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("gpt_opt.api"), name)
