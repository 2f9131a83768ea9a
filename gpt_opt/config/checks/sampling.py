"""What must hold between the keys of training.sampling; pure functions of plain containers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.config.checks.batches import prompt_length, sequence_length
from gpt_opt.errors import Problem

DEFAULT_SAMPLES = 4
"""Prompts that are continued where training.sampling.n_samples is null."""

_KEYS = "training.sampling"


def sampling_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks the keys of training.sampling, one by one and against the lengths of the training."""
    keys, params = config["training"]["sampling"], config["training"]["training_params"]
    if not keys["sample_during_eval"]:
        for key, unset in {"n_samples": None, "max_new_tokens": None, "temperature": 0}.items():
            if keys[key] != unset:
                problem = f"is {keys[key]}, but it is ignored"
                yield Problem(f"{_KEYS}.{key}", problem, f"set {_KEYS}.sample_during_eval=true, or leave the key out")
        return
    count, new, temperature = keys["n_samples"], keys["max_new_tokens"], keys["temperature"]
    if count is not None and count < 1:
        yield Problem(f"{_KEYS}.n_samples", f"must be at least 1, but is {count}")
    if params["max_length"] is None and params["context_length"] is None:
        return  # which has a problem of its own
    room = sequence_length(params) - prompt_length(params)
    if new is not None and not 1 <= new <= room:
        problem = f"must be at least 1 and at most max_length - max_prompt_length = {room}, but is {new}"
        yield Problem(f"{_KEYS}.max_new_tokens", problem, "leave it null: all of that room")
    if not 0 <= temperature < math.inf:
        yield Problem(f"{_KEYS}.temperature", f"must be a finite number of at least 0, but is {temperature}")
