"""What must hold between the groups `deepspeed` and `fsdp` and other keys."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from gpt_opt.errors import Problem


def sharding_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks that one sharding backend at most is chosen, that it is installed, and that it can do what others ask."""
    deepspeed, fsdp = config["deepspeed"], config["fsdp"]
    if deepspeed and fsdp:
        yield Problem("fsdp", "and deepspeed both shard the model, so one of them must be none", "set fsdp=none")
    if (deepspeed or fsdp) and config["training"]["training_params"]["compile"]:
        problem = "must be false where the model is sharded: deepspeed and fsdp cannot compile here"
        yield Problem("training.training_params.compile", problem, "leave it false, or set deepspeed and fsdp to none")
    if deepspeed and find_spec("deepspeed") is None:
        problem = "needs the package deepspeed: pip install 'gpt-opt[deepspeed]'"
        yield Problem("deepspeed", problem, f"or set deepspeed=none; the Python that lacks it is {sys.executable}")
